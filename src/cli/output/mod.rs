//! Output: the console, tables, and text that is safe to print.

pub(crate) mod console;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod terminal;
pub(crate) mod text;
