//! Platforms of images, such as `linux/arm64`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::text_form;

/// The operating system and the processor that an image is made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    architecture: String,
    /// The version of the architecture, if it is not the usual one.
    variant: Option<String>,
}

/// The rest of a sentence that begins with the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a platform such as \"linux/amd64\" or \"linux/arm/v7\"")]
pub struct InvalidPlatform;

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &str| {
            (1..=20).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        match parts.as_slice() {
            [os, architecture] if is_word(os) && is_word(architecture) => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] if parts.iter().copied().all(is_word) => {
                Ok(Self::new(os, architecture, variant))
            }
            _ => Err(InvalidPlatform),
        }
    }
}

text_form!(Platform);

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// The platform by its parts, as the engine names them; an empty `variant` is the usual one. Other names of the
    /// same platform become the engine's.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.trim_start_matches('v')) {
            ("x86_64" | "x86-64" | "amd64", "1" | "") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", "") => ("arm", "7"),
            ("armel", "") => ("arm", "6"),
            ("arm", "") => ("arm", "7"),
            ("i386" | "i486" | "i586" | "i686" | "386", variant) => ("386", variant),
            (other, variant) => (other, variant),
        };
        Self {
            os: os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| format!("v{variant}")),
        }
    }

    /// Whether a host of this platform runs an image that is made for `image`: the same processor, or an older version
    /// of it.
    pub fn runs(&self, image: &Self) -> bool {
        let is_as_new = match (self.version(), image.version()) {
            (Some(own), Some(needed)) => needed <= own,
            _ => self.variant == image.variant,
        };
        self.os == image.os && self.architecture == image.architecture && is_as_new
    }

    /// The version of the architecture as a number; `None`: it is not a number.
    fn version(&self) -> Option<u32> {
        match (&self.variant, self.architecture.as_str()) {
            (Some(variant), _) => variant.trim_start_matches('v').parse().ok(),
            (None, "arm64") => Some(8),
            (None, _) => Some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_one_platform_are_equal() {
        for (text, canonical) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(text).to_string(), canonical, "{text}");
            assert_eq!(platform(canonical), platform(text));
        }
        for wrong in ["", "linux", "arm64", "linux/", "/arm64", "linux/arm/v7/x", "linux/a b", "linux/arm64 "]
        {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_of_an_older_version_of_the_processor_runs() {
        for (host, image, runs) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/amd64/v3", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/arm64", "linux/arm64/v8", true),
        ] {
            assert_eq!(platform(host).runs(&platform(image)), runs, "{image} on {host}");
        }
    }
}
