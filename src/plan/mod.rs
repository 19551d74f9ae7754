//! The decision: a pure function from desired and observed to a plan.
