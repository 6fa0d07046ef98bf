# What rekeyd needs at OpenBao or Vault besides rekeyd.hcl, for policies whose target is a token.
#
#   bao policy write rekeyd-tokens deploy/openbao/tokens.hcl
#
# The token role is `orders` here: put in your own. It has to make orphans, or a token ends when rekeyd's own does:
#
#   bao write auth/token/roles/orders orphan=true allowed_policies=orders renewable=true token_period=720h
#
# A `period` that a policy says itself needs `sudo` besides `update` on `auth/token/create/orders`.

path "auth/token/roles/orders" {
  capabilities = ["read"]
}
path "auth/token/create/orders" {
  capabilities = ["update"]
}

# Finds what was made in vain, and revokes what is dead.
path "auth/token/accessors/" {
  capabilities = ["list", "sudo"]
}
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}
# Tells a wrong value from a token that may not look at itself.
path "auth/token/lookup" {
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
