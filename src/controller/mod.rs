//! The hands: wakes, passes, steps.
