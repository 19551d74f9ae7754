//! dev, test and prod on this machine, from an example repository.

pub mod repository;

/// Runs the demo until Ctrl-C.
pub async fn run(port_offset: u16) -> anyhow::Result<()> {
    let _ = port_offset;
    anyhow::bail!("soon")
}
