//! `abide agent` as a process that ends with its scope.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Options of an agent.
pub(crate) struct Options<'a> {
    /// The folder of its record, which is created.
    pub(crate) folder: &'a Path,
    /// The address of the controller.
    pub(crate) server: &'a str,
    /// Its token.
    pub(crate) token: &'a str,
    /// The port of its registry.
    pub(crate) port: u16,
    /// The socket of its engine; `None` for the engine of the benchmarks.
    pub(crate) engine: Option<&'a str>,
}

/// A running agent.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts an agent, which connects by itself.
    pub(crate) fn start(options: &Options<'_>) -> Self {
        std::fs::create_dir(options.folder).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_abide"));
        for variable in ["ABIDE_DESIRED_STATE", "ABIDE_SERVER", "RUST_LOG"] {
            command.env_remove(variable);
        }
        if let Some(engine) = options.engine {
            command.env("DOCKER_HOST", engine);
        }
        command.env("ABIDE_TOKEN", options.token).args(["agent", "--server", options.server]);
        command.args(["--registry-port", &options.port.to_string(), "--desired-state"]).arg(options.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// The process ID.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
