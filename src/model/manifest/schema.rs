//! The manifest's keys as a JSON Schema, for editors.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{Key, OWN_PREFIX, ROOT, SECRET, SECTIONS, Section, ValueShape};

/// Returns a JSON Schema (draft-07, which TOML plugins of editors support) for one file of a manifest.
///
/// It checks keys and types. Rules between keys, such as "either `source` or `image`", are left to `abide check`.
#[must_use]
pub fn schema() -> Value {
    let mut root = table(&ROOT);
    let tables = SECTIONS.iter().filter(|section| !section.title.is_empty());
    let tables = tables.map(|section| (section.title.to_owned(), table(section)));
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("abide manifest");
    root["definitions"] = Value::Object(tables.collect());
    root
}

fn table(section: &Section) -> Value {
    let properties = section.keys.iter().map(|key| (key.name.to_owned(), property(key)));
    let required = section.keys.iter().filter(|key| key.is_required).map(|key| key.name);
    json!({
        "type": "object",
        "properties": properties.collect::<Map<_, _>>(),
        "required": required.collect::<Vec<_>>(),
        "patternProperties": { format!("^{OWN_PREFIX}"): {} },
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let mut property = typed(&key.shape);
    let default = match key.default {
        "" | "none" | "*required*" => String::new(),
        default => format!(" Default: {default}."),
    };
    property["description"] = json!(format!("{}.{default}", key.meaning));
    if let Some(example) = json_of(key.example) {
        property["examples"] = json!([example]);
    }
    property
}

/// A reference to a section, in a form that allows other members beside it.
fn reference(section: &Section) -> Value {
    json!({ "allOf": [{ "$ref": format!("#/definitions/{}", section.title) }] })
}

fn typed(shape: &ValueShape) -> Value {
    let text = || json!({ "type": "string" });
    match shape {
        ValueShape::Text | ValueShape::Path(_) => text(),
        ValueShape::Duration => json!({ "type": "string", "pattern": "^[0-9]" }),
        ValueShape::Flag => json!({ "type": "boolean" }),
        ValueShape::True => json!({ "const": true }),
        ValueShape::False => json!({ "const": false }),
        ValueShape::Number => json!({ "type": "number" }),
        ValueShape::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        ValueShape::Port => typed(&ValueShape::Integer(1, u64::from(u16::MAX))),
        ValueShape::Size => json!({ "type": ["string", "integer"] }),
        ValueShape::List(_) => json!({ "type": "array", "items": text() }),
        ValueShape::Values => {
            let value = [json!({ "type": ["string", "number", "boolean"] }), reference(&SECRET)];
            json!({ "type": "object", "additionalProperties": { "anyOf": value } })
        }
        ValueShape::AnyTable => json!({ "type": "object" }),
        ValueShape::Table(section) => reference(section),
        ValueShape::Tables(section) => json!({ "type": "array", "items": reference(section) }),
        ValueShape::TablesBy(_, section) => json!({
            "type": "object",
            "patternProperties": { format!("^{OWN_PREFIX}"): {} },
            "additionalProperties": reference(section),
        }),
        ValueShape::OneOf(_, shapes) => json!({ "anyOf": merged(shapes) }),
    }
}

/// The alternatives of a key. Lists of texts and lists of tables may be mixed, so they become one list.
fn merged(shapes: &[ValueShape]) -> Vec<Value> {
    let (lists, others): (Vec<Value>, Vec<Value>) =
        shapes.iter().map(typed).partition(|shape| shape["type"] == "array");
    if lists.len() < 2 {
        return lists.into_iter().chain(others).collect();
    }
    let items: Vec<&Value> = lists.iter().map(|list| &list["items"]).collect();
    let list = json!({ "type": "array", "items": { "anyOf": items } });
    std::iter::once(list).chain(others).collect()
}

/// Converts a TOML value to JSON.
fn json_of(example: &str) -> Option<Value> {
    toml::from_str::<BTreeMap<String, Value>>(&format!("it = {example}")).ok()?.remove("it")
}

#[cfg(test)]
mod tests {
    use boon::{Compiler, SchemaIndex, Schemas};

    use super::*;

    const MANUAL: &str = include_str!("../../../desired-state/README.md");
    const SHIPPED: &str = include_str!("../../../desired-state/keepwork.toml");

    fn compiled() -> (Schemas, SchemaIndex) {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("manifest.json", schema()).unwrap();
        let index = compiler.compile("manifest.json", &mut schemas).unwrap();
        (schemas, index)
    }

    fn accepts((schemas, index): &(Schemas, SchemaIndex), manifest: &str) -> Result<(), String> {
        let manifest: Value = toml::from_str(manifest).unwrap();
        schemas.validate(&manifest, *index).map_err(|error| error.to_string())
    }

    #[test]
    fn the_schema_accepts_the_shipped_manifest_and_every_example() {
        let schema = compiled();
        accepts(&schema, SHIPPED).unwrap();
        let blocks = MANUAL.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks {
            accepts(&schema, block).unwrap_or_else(|error| panic!("{block}\n{error}"));
        }
        for section in SECTIONS {
            for key in section.keys.iter().filter(|key| !key.example.is_empty()) {
                let value = json_of(key.example).unwrap_or_else(|| panic!("`{}`: {}", key.name, key.example));
                let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
                let mut alone = typed(&key.shape);
                alone["definitions"] = super::schema()["definitions"].clone();
                compiler.add_resource("key.json", alone).unwrap();
                let index = compiler.compile("key.json", &mut schemas).unwrap();
                let answer = schemas.validate(&value, index).map_err(|error| error.to_string());
                answer.unwrap_or_else(|error| panic!("{}.{}: {error}", section.title, key.name));
            }
        }
    }

    #[test]
    fn the_schema_rejects_unknown_keys_wrong_types_and_missing_keys_and_allows_own_keys() {
        let schema = compiled();
        let environment = |line: &str| format!("[environment.dev]\ncontainer = \"dev\"\n{line}\n");
        accepts(&schema, &environment("port = 80")).unwrap();
        accepts(&schema, &environment("x-owner = { team = [1, \"a\"] }")).unwrap();
        accepts(&schema, &environment("volumes = [\"a:/a\", { source = \"b\", target = \"/b\" }]")).unwrap();
        for wrong in ["prot = 80", "port = \"80\"", "port = 0", "env = { A = [] }", "source = {}", "init = 1"]
        {
            assert!(accepts(&schema, &environment(wrong)).is_err(), "{wrong}");
        }
        assert!(accepts(&schema, "[environment.dev]\nport = 80\n").is_err(), "`container` is missing");
    }
}
