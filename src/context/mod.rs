//! Build contexts: `.dockerignore` rules, archives, overlays. Plain file work, no Docker.
