//! As much of JSON Schema as the shipped file uses. A word that it does not know is an error.

use serde_json::Value;

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("type {name}"),
    }
}

/// Text of one of the forms that the shipped file has.
fn has_form(text: &str, pattern: &str) -> bool {
    match pattern {
        "^[0-9a-f]{32}$" => text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$" => {
            let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            form == "0000-00-00T00:00:00.000000Z"
        }
        "^[A-Za-z0-9+/]*={0,2}$" => text.trim_end_matches('=').bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')),
        _ => panic!("pattern {pattern}"),
    }
}

/// Is the value as the schema says?
pub fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{at}: {what}: {value}"));
    let words = schema.as_object().unwrap();
    for (word, says) in words {
        match word.as_str() {
            "$schema" | "$id" | "title" | "description" => {}
            "type" => {
                let names: Vec<_> = says.as_array().map_or_else(|| vec![says], |list| list.iter().collect());
                if !names.iter().any(|name| is_of(value, name.as_str().unwrap())) {
                    return fail("type");
                }
            }
            "enum" if !says.as_array().unwrap().contains(value) => return fail("enum"),
            "const" if says != value => return fail("const"),
            "pattern" if value.as_str().is_some_and(|text| !has_form(text, says.as_str().unwrap())) => return fail("pattern"),
            "enum" | "const" | "pattern" => {}
            "required" => {
                for name in says.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        return fail(&format!("{name} is missing"));
                    }
                }
            }
            "properties" | "additionalProperties" => {
                let known = words.get("properties");
                for (name, inner) in value.as_object().into_iter().flatten() {
                    let of = known.and_then(|k| k.get(name));
                    let inner_at = format!("{at}.{name}");
                    match (word.as_str(), of) {
                        ("properties", Some(of)) => check(of, inner, &inner_at)?,
                        ("additionalProperties", None) if *says == Value::Bool(false) => return fail(&format!("{name} is unknown")),
                        ("additionalProperties", None) => check(says, inner, &inner_at)?,
                        _ => {}
                    }
                }
            }
            "items" => {
                for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
                    check(says, inner, &format!("{at}[{i}]"))?;
                }
            }
            _ => panic!("{at}: the word {word}"),
        }
    }
    Ok(())
}
