//! Tests that need no external service.
