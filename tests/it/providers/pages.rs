//! Lists in pages that are not what they seem.

use rekeyd::failure::FailureClass;
use rekeyd::target::Target as _;
use serde_json::json;

use super::{ADMIN, Turn, case, target_of};
use crate::providers_support::gitea::Gitea;

/// Where the order of a list is none, or the parameter is another one than the recipe says, a page has what another one
/// had, and something else is on none: a list that looks whole is not.
#[tokio::test]
async fn pages_that_overlap_are_no_list() {
    let mut case = case("gitea-token", Gitea { admin: ADMIN.into() }, json!({})).await;
    case.mint(&Turn::new()).await.expect("a key");
    let recipe = case.spec.definition.as_mut().expect("a recipe");
    let pages = recipe.list.as_mut().and_then(|list| list.pages.as_mut()).expect("pages");
    pages.parameter = Some("p".into());
    let owner = case.spec.owner.clone();
    let failure = target_of(&case.spec, Some(ADMIN)).keys(&owner).await.expect_err("the first page, twice");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.to_string().contains("its pages do not agree"), "{failure}");
    assert_eq!(case.target.keys(&owner).await.expect("keys").len(), 1);
}
