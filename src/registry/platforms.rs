//! The platforms of a multi-platform image.

use serde::Deserialize;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    platform: Option<IndexPlatform>,
}

#[derive(Deserialize)]
struct IndexPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// The platforms of an index, without duplicates; empty if the manifest is not an index.
pub(crate) fn of_index(manifest: &[u8]) -> Vec<String> {
    let Ok(index) = serde_json::from_slice::<Index>(manifest) else { return Vec::new() };
    let mut found = Vec::new();
    for platform in index.manifests.into_iter().filter_map(|entry| entry.platform) {
        // Attestations are listed beside images, with this platform name.
        if platform.os == "unknown" {
            continue;
        }
        let words = [platform.os, platform.architecture, platform.variant];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let name = words.join("/").chars().filter(char::is_ascii_graphic).take(60).collect::<String>();
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_of_an_index_are_listed_without_attestations() {
        let index = br#"{"manifests": [
            {"digest": "a", "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"digest": "b", "platform": {"os": "windows", "architecture": "amd64"}},
            {"digest": "c", "platform": {"os": "unknown", "architecture": "unknown"}},
            {"digest": "d"}]}"#;
        assert_eq!(of_index(index), ["linux/arm64/v8", "windows/amd64"]);
        assert!(of_index(br#"{"config": {}}"#).is_empty() && of_index(b"no JSON").is_empty());
    }
}
