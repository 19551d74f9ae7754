//! The memory: the only module that names sled.
