//! Git: branch heads, mirrors, trees.
