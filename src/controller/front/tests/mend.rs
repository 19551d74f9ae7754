//! What is done to the front, and mended.
