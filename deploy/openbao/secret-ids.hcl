# What rekeyd needs at OpenBao or Vault besides rekeyd.hcl, for policies whose target is the secret ids of an AppRole.
#
#   bao policy write rekeyd-secret-ids deploy/openbao/secret-ids.hcl
#
# The method is mounted at `approle` here, and the role is `orders`: put in your own, once for each role. Whoever may
# write policies of rekeyd has what is made with these rights.

path "auth/approle/role/orders" {
  capabilities = ["read"]
}
path "auth/approle/role/orders/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/orders/secret-id" {
  capabilities = ["update", "list"]
}
path "auth/approle/role/orders/secret-id-accessor/lookup" {
  capabilities = ["update"]
}
path "auth/approle/role/orders/secret-id-accessor/destroy" {
  capabilities = ["update"]
}

# Finds and revokes the tokens that were got with a dead secret id. Not needed with `tokens: expire`.
path "sys/leases/lookup/auth/approle/login/" {
  capabilities = ["list", "sudo"]
}
path "auth/token/accessors/" {
  capabilities = ["list", "sudo"]
}
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}

# The policy `default` grants these too.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/capabilities-self" {
  capabilities = ["update"]
}
