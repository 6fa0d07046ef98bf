# What rekeyd needs at OpenBao or Vault, and nothing more.
#
#   bao policy write rekeyd deploy/openbao/rekeyd.hcl
#
# The mount is `secret` here, the control path `rekeyd`, and policies keep their values below `apps/`:
# put in your own. Give nobody else rights below the control path.

# The values that applications read.
path "secret/data/apps/*" {
  capabilities = ["create", "read", "update"]
}

# The admin credentials that rekeyd's settings keep here (`credentials: NAME: {store: {name, path}}`), to read alone.
path "secret/data/platform/*" {
  capabilities = ["read"]
}

# Copies for other teams, where policies have such (`consumers: [vault: ...]`), need the same on `<mount>/data/<path>`
# of each copy.

# rekeyd's control documents.
path "secret/data/rekeyd/*" {
  capabilities = ["create", "read", "update"]
}

# Finds the control documents, and limits each to its latest version.
path "secret/metadata/rekeyd/*" {
  capabilities = ["create", "update", "list"]
}

# Lets `rekeyd preflight` see that the mount does not delete values by itself.
path "secret/config" {
  capabilities = ["read"]
}

# rekeyd keeps its own token alive and looks at what it may do. The policy `default` grants these too.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
