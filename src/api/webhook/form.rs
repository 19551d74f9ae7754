//! Decodes a form as it arrives: only its parameter `payload`, which is JSON.

/// The name of that parameter.
const NAME: &[u8] = b"payload";

/// The state of the decoder.
#[derive(Debug, Default)]
pub(super) struct FormDecoder {
    /// The decoded beginning of the current parameter's name; `None` while its value is read.
    name: Name,
    escape: Escape,
    payloads: usize,
    is_broken: bool,
}

#[derive(Debug)]
enum Name {
    Reading(Vec<u8>),
    Read { is_payload: bool },
}

impl Default for Name {
    fn default() -> Self {
        Self::Reading(Vec::new())
    }
}

/// The part read of an escape such as `%7B`.
#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    Percent,
    High(u8),
}

impl FormDecoder {
    /// Decodes the next bytes, and returns their part of the payload.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        for byte in bytes {
            match (self.escape, byte) {
                (Escape::None, b'%') => self.escape = Escape::Percent,
                (Escape::None, b'&') => self.end_parameter(),
                (Escape::None, b'=') if matches!(self.name, Name::Reading(_)) => self.end_name(),
                (Escape::None, b'+') => self.decoded(b' ', &mut payload),
                (Escape::None, byte) => self.decoded(*byte, &mut payload),
                (Escape::Percent, byte) => match digit(*byte) {
                    Some(high) => self.escape = Escape::High(high),
                    None => self.is_broken = true,
                },
                (Escape::High(high), byte) => match digit(*byte) {
                    Some(low) => {
                        self.escape = Escape::None;
                        self.decoded(high << 4 | low, &mut payload);
                    }
                    None => self.is_broken = true,
                },
            }
            if self.is_broken {
                break;
            }
        }
        payload
    }

    /// Returns whether there was exactly one payload and no broken escape.
    pub(super) fn finish(mut self) -> bool {
        self.end_parameter();
        !self.is_broken && matches!(self.escape, Escape::None) && self.payloads == 1
    }

    fn decoded(&mut self, byte: u8, payload: &mut Vec<u8>) {
        match &mut self.name {
            // One byte beyond the length is enough to know that the name differs.
            Name::Reading(name) if name.len() <= NAME.len() => name.push(byte),
            Name::Read { is_payload: true } => payload.push(byte),
            _ => {}
        }
    }

    fn end_name(&mut self) {
        let is_payload = matches!(&self.name, Name::Reading(name) if name == NAME);
        self.payloads += usize::from(is_payload);
        self.name = Name::Read { is_payload };
    }

    fn end_parameter(&mut self) {
        if matches!(self.name, Name::Reading(_)) {
            self.end_name();
        }
        self.name = Name::default();
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(form: &str, piece: usize) -> Option<String> {
        let mut reader = FormDecoder::default();
        let pieces: Vec<u8> = form.as_bytes().chunks(piece).flat_map(|piece| reader.push(piece)).collect();
        reader.finish().then(|| String::from_utf8(pieces).unwrap())
    }

    #[test]
    fn a_form_has_exactly_one_payload_with_whole_escapes() {
        for piece in [1, 2, 3, 100] {
            assert_eq!(payload("a=1&payload=%7B%22x%22%3A+1%7D", piece), Some("{\"x\": 1}".into()));
            assert_eq!(payload("p%61yload=a=b&payload2=c&&d", piece), Some("a=b".into()));
            assert_eq!(payload("payload", piece), Some(String::new()));
            for broken in [
                "",
                "payload=a&payload=b",
                "other=1",
                "payload=%",
                "payload=%7",
                "payload=%zz",
                "payload=a&x=%g1",
            ] {
                assert_eq!(payload(broken, piece), None, "{broken}");
            }
        }
    }

    #[test]
    fn a_serialized_form_is_decoded() {
        let text = "{\"ref\": \"refs/heads/ä+%&=名\"}";
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", text).finish();
        assert_eq!(payload(&form, 5), Some(text.to_owned()));
    }

    #[test]
    fn a_million_parameters_are_read() {
        assert_eq!(payload(&"a=1&".repeat(1_000_000), 4_096), None);
    }
}
