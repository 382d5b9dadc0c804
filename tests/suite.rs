//! The tests, one subject a file.
