//! What the server knows about the roles of a policy, read in one statement.
//!
//! The answer is one JSON document: it is one round trip, and it is typed here. Nothing in it is secret;
//! a role with `CREATEROLE` cannot read password hashes, and none is asked for. Whether there is one a superuser is
//! asked, of a role that may log in and that nobody is known to use.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::connect::Session;
use super::error::{Stage, batch_failure};
use super::planned::Planned;
use super::sql::{self, ident, literal, names};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// The oldest release whose behaviour this adapter relies on.
pub(super) const OLDEST_VERSION: u32 = 140_000;

/// From here on, `CREATEROLE` changes only roles that it has `ADMIN OPTION` on.
const ADMIN_OPTION_VERSION: u32 = 160_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// `server_version_num`: 150018 is 15.18.
    pub(super) version: u32,
    pub(super) in_recovery: bool,
    pub(super) read_only: bool,
    pub(super) admin: Admin,
    pub(super) roles: Vec<Role>,
    /// Which of the group roles asked for exist.
    groups: Vec<String>,
    /// What only one of the pair holds and rekeyd cannot give the other.
    #[serde(default)]
    pub(super) lone: Vec<Lone>,
}

/// Who rekeyd is at the server.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Admin {
    /// The role that logged in.
    pub(super) login: String,
    /// The role whose rights it has: the same, unless it has a `role` setting.
    pub(super) name: String,
    pub(super) superuser: bool,
    pub(super) create_role: bool,
    /// Whether it may end sessions of other roles.
    pub(super) ends_sessions: bool,
    /// Whether it sees when sessions of other roles began and from where.
    pub(super) sees_sessions: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Role {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) attributes: Attributes,
    pub(super) login: bool,
    /// Whether its `VALID UNTIL` has passed.
    pub(super) expired: bool,
    /// `None` where the admin is not told: it takes a superuser.
    #[serde(skip)]
    pub(super) has_password: Option<bool>,
    pub(super) comment: String,
    /// By the group's name.
    pub(super) memberships: BTreeMap<String, Membership>,
    pub(super) settings: Vec<DatabaseSettings>,
    /// Whether the admin may change it.
    pub(super) administered: bool,
    /// Whether the admin has its rights, and so may see and end its sessions.
    pub(super) inherited: bool,
    /// How many sessions it has open, and what some of them say of themselves.
    pub(super) sessions: u64,
    pub(super) session_examples: Vec<String>,
}

impl Role {
    /// Whether a password may let it in.
    pub(super) fn is_open(&self) -> bool {
        self.login && !self.expired && self.has_password != Some(false)
    }
}

/// What `ALTER ROLE` sets, apart from login and password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attributes {
    pub(super) superuser: bool,
    pub(super) replication: bool,
    pub(super) bypass_rls: bool,
    pub(super) inherit: bool,
    pub(super) create_role: bool,
    pub(super) create_db: bool,
    /// -1 is unlimited.
    pub(super) connection_limit: i32,
    /// `None` is for ever.
    pub(super) valid_until: Option<String>,
}

/// How a role belongs to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Membership {
    pub(super) admin: bool,
    /// `None` before PostgreSQL 16, where the role's own `INHERIT` decides.
    pub(super) inherit: Option<bool>,
    /// `None` before PostgreSQL 16, where every member may `SET ROLE`.
    pub(super) set: Option<bool>,
}

/// Role settings in one database, or in all where the name is empty.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct DatabaseSettings {
    pub(super) database: String,
    /// `name=value`.
    pub(super) entries: Vec<String>,
}

/// Something that only one role of a pair holds.
#[derive(Debug, Deserialize)]
pub(super) struct Lone {
    pub(super) holder: String,
    pub(super) kind: LoneKind,
    /// Empty for the connected database and for what belongs to none.
    pub(super) database: String,
    pub(super) object: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum LoneKind {
    Owns,
    Granted,
    Policy,
}

impl Facts {
    /// The statements of which the last gives the answer that [`Facts::parse`] reads.
    pub(super) fn query(
        session: &Session,
        candidate: &Principal,
        peer: Option<&Principal>,
        groups: &[Principal],
    ) -> Vec<String> {
        let roles = names([Some(candidate), peer].into_iter().flatten().map(Principal::as_str));
        let groups = names(groups.iter().map(Principal::as_str));
        session.plans().call(if peer.is_some() { &OF_PAIR } else { &OF_ROLE }, &[roles, groups])
    }

    pub(super) fn parse(json: Option<&String>, doing: &str) -> Result<Self, Failure> {
        json.and_then(|json| serde_json::from_str(json).ok()).ok_or_else(|| {
            Failure::new(FailureClass::Invalid, doing, "the server describes its roles in an unknown form")
        })
    }

    pub(super) fn role(&self, name: &Principal) -> Option<&Role> {
        self.roles.iter().find(|role| role.name == name.as_str())
    }

    /// Has it said whether a role has a password, where that matters and the admin is told.
    pub(super) async fn look_for_password(
        &mut self,
        session: &Session,
        name: &Principal,
        deadline: Duration,
        doing: &str,
    ) -> Result<(), Failure> {
        let asks = self.admin.superuser;
        let role = self.roles.iter_mut().find(|role| role.name == name.as_str());
        let Some(role) = role.filter(|role| asks && role.is_open()) else { return Ok(()) };
        let name = literal(name.as_str());
        let question = format!("SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = {name}");
        let replies = sql::run(session, [question], deadline)
            .await
            .map_err(|error| batch_failure(&error, Stage::Reading, doing))?;
        role.has_password = replies.first().and_then(|rows| rows.first()).map(|told| told == "t");
        Ok(())
    }

    pub(super) fn has_group(&self, name: &Principal) -> bool {
        self.groups.iter().any(|group| group == name.as_str())
    }

    /// What the admin is missing to change a role, as the statement that gives it.
    pub(super) fn admin_remedy(&self, role: &Principal) -> String {
        let admin = ident(&self.admin.name);
        if self.version >= ADMIN_OPTION_VERSION && self.admin.create_role {
            format!("as a superuser: GRANT {} TO {admin} WITH ADMIN OPTION", ident(role.as_str()))
        } else {
            format!("as a superuser: ALTER ROLE {admin} CREATEROLE")
        }
    }
}

/// A role by itself. `$1` are the roles, `$2` the groups.
const OF_ROLE: Planned = Planned {
    name: "rekeyd_role_facts",
    parameters: "name[], name[]",
    text: || query_with("SELECT '[]'::json"),
};

/// A role and the one that it takes turns with.
const OF_PAIR: Planned =
    Planned { name: "rekeyd_pair_facts", parameters: "name[], name[]", text: || query_with(LONE) };

fn query_with(lone: &str) -> String {
    format!(
        "SELECT json_build_object(
           'version', current_setting('server_version_num')::int,
           'inRecovery', pg_is_in_recovery(),
           'readOnly', current_setting('default_transaction_read_only') = 'on',
           'admin', (SELECT json_build_object(
               'login', session_user, 'name', current_user,
               'superuser', rolsuper, 'createRole', rolsuper OR rolcreaterole,
               'endsSessions', pg_has_role('pg_signal_backend', 'USAGE'),
               'seesSessions', pg_has_role('pg_read_all_stats', 'USAGE'))
             FROM pg_roles WHERE rolname = current_user),
           'groups', (SELECT coalesce(json_agg(rolname), '[]') FROM pg_roles WHERE rolname = ANY($2)),
           'roles', (SELECT coalesce(json_agg({ROLE}), '[]') FROM pg_roles r WHERE rolname = ANY($1)),
           'lone', ({lone}))"
    )
}

/// One role of `pg_roles r`. `to_jsonb` reads the membership options of PostgreSQL 16 where they exist
/// and gives null before, so that one text serves all versions (16 and later are not tested here).
const ROLE: &str = "json_build_object(
  'name', r.rolname, 'superuser', r.rolsuper, 'replication', r.rolreplication,
  'bypassRls', r.rolbypassrls, 'inherit', r.rolinherit, 'createRole', r.rolcreaterole,
  'createDb', r.rolcreatedb, 'connectionLimit', r.rolconnlimit, 'login', r.rolcanlogin,
  'validUntil', nullif(r.rolvaliduntil, 'infinity')::text,
  'expired', coalesce(r.rolvaliduntil <= now(), false),
  'comment', coalesce(shobj_description(r.oid, 'pg_authid'), ''),
  'memberships', (SELECT coalesce(json_object_agg(name, json_build_object('admin', admin, 'inherit', inherit, 'set', set)), '{}')
    FROM (SELECT g.rolname AS name, bool_or(m.admin_option) AS admin,
        bool_or((to_jsonb(m)->>'inherit_option')::bool) AS inherit,
        bool_or((to_jsonb(m)->>'set_option')::bool) AS set
      FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
      WHERE m.member = r.oid GROUP BY g.rolname) AS membership),
  'settings', (SELECT coalesce(json_agg(json_build_object('database', coalesce(d.datname, ''), 'entries', s.setconfig)), '[]')
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE s.setrole = r.oid),
  'administered', (SELECT a.rolsuper OR (a.rolcreaterole AND NOT r.rolsuper AND (
      current_setting('server_version_num')::int < 160000
      OR pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')))
    FROM pg_roles a WHERE a.rolname = current_user),
  'inherited', pg_has_role(r.oid, 'USAGE'),
  'sessions', (SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid AND pid <> pg_backend_pid()
      AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')),
  'sessionExamples', (SELECT coalesce(json_agg(example), '[]') FROM (
      SELECT DISTINCT coalesce(nullif(application_name, ''), 'a client') || ' at ' || coalesce(host(client_addr), 'a local socket') AS example
      FROM pg_stat_activity WHERE usesysid = r.oid AND pid <> pg_backend_pid()
        AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')
      ORDER BY 1 LIMIT 5) AS session))";

/// What one role of a pair owns, was granted or is named for in a row-level security policy, and the
/// other is not. `pg_shdepend` knows the objects in all databases, the privileges are compared in the
/// connected one. 11 rows tell "more than ten".
const LONE: &str = "WITH held AS (
           SELECT p.rolname AS holder, d.refobjid AS role, d.deptype, d.dbid, d.classid, d.objid, d.objsubid
           FROM pg_roles p JOIN pg_shdepend d ON d.refobjid = p.oid
           WHERE p.rolname = ANY($1) AND d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a', 'r')),
         here AS (SELECT oid FROM pg_database WHERE datname = current_database()),
         acl AS (
           SELECT h.*, coalesce(a.acl, ARRAY[]::aclitem[]) AS items FROM held h CROSS JOIN LATERAL (
             SELECT relacl AS acl FROM pg_class WHERE h.classid = 'pg_class'::regclass AND h.objsubid = 0 AND oid = h.objid
             UNION ALL SELECT attacl FROM pg_attribute WHERE h.classid = 'pg_class'::regclass AND h.objsubid > 0 AND attrelid = h.objid AND attnum = h.objsubid
             UNION ALL SELECT nspacl FROM pg_namespace WHERE h.classid = 'pg_namespace'::regclass AND oid = h.objid
             UNION ALL SELECT proacl FROM pg_proc WHERE h.classid = 'pg_proc'::regclass AND oid = h.objid
             UNION ALL SELECT typacl FROM pg_type WHERE h.classid = 'pg_type'::regclass AND oid = h.objid
             UNION ALL SELECT defaclacl FROM pg_default_acl WHERE h.classid = 'pg_default_acl'::regclass AND oid = h.objid
             UNION ALL SELECT datacl FROM pg_database WHERE h.classid = 'pg_database'::regclass AND oid = h.objid
           ) a WHERE h.deptype = 'a' AND (h.dbid = 0 OR h.dbid = (SELECT oid FROM here))),
         privilege AS (
           SELECT acl.holder, acl.classid, acl.objid, acl.objsubid, e.privilege_type, e.is_grantable
           FROM acl, aclexplode(acl.items) e WHERE e.grantee = acl.role),
         lone AS (
           SELECT h.holder, CASE h.deptype WHEN 'o' THEN 'owns' WHEN 'a' THEN 'granted' ELSE 'policy' END AS kind,
             h.dbid, h.classid, h.objid, h.objsubid, '' AS detail
           FROM held h WHERE h.deptype = 'o' OR NOT EXISTS (
             SELECT FROM held o WHERE o.role <> h.role AND o.deptype = h.deptype AND o.dbid = h.dbid
               AND o.classid = h.classid AND o.objid = h.objid AND o.objsubid = h.objsubid)
           UNION ALL
           SELECT p.holder, 'granted', 0, p.classid, p.objid, p.objsubid, lower(p.privilege_type) || CASE WHEN p.is_grantable THEN ' with grant option' ELSE '' END || ' on '
           FROM privilege p WHERE EXISTS (
               SELECT FROM privilege o WHERE o.holder <> p.holder AND o.classid = p.classid AND o.objid = p.objid AND o.objsubid = p.objsubid)
             AND NOT EXISTS (
               SELECT FROM privilege o WHERE o.holder <> p.holder AND o.classid = p.classid AND o.objid = p.objid AND o.objsubid = p.objsubid
                 AND o.privilege_type = p.privilege_type AND o.is_grantable = p.is_grantable)
           ORDER BY 1, 2, 4, 5 LIMIT 11)
         SELECT coalesce(json_agg(json_build_object('holder', holder, 'kind', kind,
             'database', CASE WHEN dbid IN (0, (SELECT oid FROM here)) THEN '' ELSE coalesce((SELECT datname FROM pg_database WHERE oid = dbid), '') END,
             'object', CASE WHEN dbid IN (0, (SELECT oid FROM here)) THEN detail || pg_describe_object(classid, objid, objsubid) ELSE 'an object' END)), '[]')
         FROM lone";
