//! One suite on several servers.

/// Makes a module for each server, with a test of each name in it: of a function that takes that server's kind.
macro_rules! on_each {
    ([$($server:ident: $kind:expr),+] $tests:tt) => {
        $(crate::each::on_each! { $server: $kind, $tests })+
    };
    ($server:ident: $kind:expr, { $($test:ident)+ }) => {
        mod $server {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($kind).await;
            }
        )+}
    };
}
pub(crate) use on_each;
