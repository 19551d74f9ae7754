//! The program that Docker runs in each replica of a service to check its health. The swarm keeps it as a config, so it
//! is small, and needs nothing of the image.

use super::program::Program;

/// The probe.
pub(super) static PROGRAM: Program = Program {
    repository: "abide/probe",
    file: "probe",
    content: include_bytes!(concat!(env!("OUT_DIR"), "/probe")),
};
