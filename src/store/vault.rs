//! OpenBao and Vault.
