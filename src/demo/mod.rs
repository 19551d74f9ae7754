//! dev, test and prod on this machine, from an example repository.

pub mod repository;
