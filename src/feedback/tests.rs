//! Deliveries against fakes: what is sent after failures, restarts and floods, and how each channel writes it.

mod lanes;
