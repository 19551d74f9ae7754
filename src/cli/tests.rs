//! Verbs as they are typed, against an API that remembers what it was asked.
