//! The recipes that rekeyd brings along: those of `policies/recipes`.

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// Each by its name, as it is written.
        pub const ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../policies/recipes/", $name, ".yaml")))),*];
    };
}

shipped!("openbao-userpass", "rabbitmq-user");
