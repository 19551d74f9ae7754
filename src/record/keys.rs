//! Keys of the store: `environment`, or `environment \0 number` with the number big-endian, so that the
//! store's own order is the order of the numbers.

use crate::model::name::{AgentName, EnvironmentName};

/// Ends the name in a numbered key. No name contains it, so a search for `dev` does not find `dev2`.
const END: u8 = 0;

/// The key of an environment's `number`th document.
pub(super) fn numbered(environment: &EnvironmentName, number: u64) -> Vec<u8> {
    let mut key = all_of(environment);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The common prefix of this environment's numbered keys.
pub(super) fn all_of(environment: &EnvironmentName) -> Vec<u8> {
    let mut key = environment.as_str().as_bytes().to_vec();
    key.push(END);
    key
}

/// The name in a plain key.
pub(super) fn name(key: &[u8]) -> Option<EnvironmentName> {
    EnvironmentName::new(std::str::from_utf8(key).ok()?).ok()
}

/// The agent in a plain key.
pub(super) fn agent(key: &[u8]) -> Option<AgentName> {
    AgentName::new(std::str::from_utf8(key).ok()?).ok()
}

/// The parts of a numbered key.
pub(super) fn split(key: &[u8]) -> Option<(EnvironmentName, u64)> {
    let end = key.iter().position(|byte| *byte == END)?;
    let (environment, rest) = key.split_at(end);
    Some((name(environment)?, number(rest.get(1..)?)?))
}

/// Decodes a number of a key or counter.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_key_splits_into_its_parts() {
        let dev = EnvironmentName::new("dev").unwrap();
        for number in [0, 1, 256, u64::MAX] {
            assert_eq!(split(&numbered(&dev, number)), Some((dev.clone(), number)));
        }
    }

    #[test]
    fn keys_of_one_name_are_not_a_prefix_of_another() {
        let longer = EnvironmentName::new("dev2").unwrap();
        let dev = EnvironmentName::new("dev").unwrap();
        assert!(!numbered(&longer, 1).starts_with(&all_of(&dev)));
    }

    #[test]
    fn broken_keys_have_no_parts() {
        for broken in
            [&b""[..], b"dev", b"dev\0", b"dev\0\0\0", b"\0\0\0\0\0\0\0\0\0", b"\xff\0\0\0\0\0\0\0\0\x01"]
        {
            assert_eq!(split(broken), None, "{broken:?}");
        }
    }
}
