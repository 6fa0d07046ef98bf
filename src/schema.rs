//! The JSON Schemas of every kind of file, for editors and for checks before a merge.
//!
//! They are derived from the types that the files are read into. The copies under `schemas/` are what
//! editors load; a test holds them to this. A schema cannot say all of the rules: `rekeyd check` does.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::policy::document::Document;
use crate::recipe::{ConsumerRecipeDocument, RecipeDocument};
use crate::settings::Settings;

/// The schema of a policy document, `schemas/rotationpolicy.schema.json`.
#[must_use]
pub fn rotation_policy() -> Value {
    generate::<Document>()
}

/// The schema of a recipe, `schemas/recipe.schema.json`.
#[must_use]
pub fn recipe() -> Value {
    generate::<RecipeDocument>()
}

/// The schema of a recipe for consumers, `schemas/consumerrecipe.schema.json`.
#[must_use]
pub fn consumer_recipe() -> Value {
    generate::<ConsumerRecipeDocument>()
}

/// The schema of the settings, `schemas/rekeyd.schema.json`.
#[must_use]
pub fn settings() -> Value {
    generate::<Settings>()
}

/// Of draft 7, which every editor's YAML support knows.
fn generate<T: JsonSchema>() -> Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value()
}
