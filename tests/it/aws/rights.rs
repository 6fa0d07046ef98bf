//! The policy of IAM that is printed: what rekeyd asks for and nothing else.
