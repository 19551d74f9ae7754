//! Reads an export from a file without holding more than one of its environments.

use std::io::Read;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::de::IoRead;

use super::FORMAT;
use super::export::ExportHead;

/// Why reading ended early.
pub(super) enum ScanError<E> {
    /// The text is not an export.
    Json(serde_json::Error),
    /// A later abide wrote it.
    TooNew(u32),
    /// The caller refused an environment.
    Refused(E),
}

/// Passes each environment of the export in `reader` to `each`. Returns the export's head, and what follows
/// the export.
///
/// # Errors
/// Returns [`ScanError`] if the text is not an export, or if `each` refuses.
pub(super) fn export<R: Read, T: for<'de> Deserialize<'de>, E>(
    reader: R,
    each: impl FnMut(T) -> Result<(), E>,
) -> Result<(ExportHead, Deserializer<IoRead<R>>), ScanError<E>> {
    let mut deserializer = Deserializer::from_reader(reader);
    let mut fields = ExportFields { head: PartialHead::default(), refusal: None, each, of: PhantomData };
    let read = serde::Deserializer::deserialize_map(&mut deserializer, &mut fields);
    if let Some(refusal) = fields.refusal {
        return Err(ScanError::Refused(refusal));
    }
    match (read, fields.head.format) {
        (_, Some(format)) if format > FORMAT => Err(ScanError::TooNew(format)),
        (Ok(head), _) => Ok((head, deserializer)),
        (Err(error), _) => Err(ScanError::Json(error)),
    }
}

/// The fields so far.
#[derive(Default)]
struct PartialHead {
    format: Option<u32>,
    id: Option<String>,
    serial: u64,
    has_environments: bool,
}

struct ExportFields<T, E, F> {
    head: PartialHead,
    refusal: Option<E>,
    each: F,
    of: PhantomData<fn(T)>,
}

impl<'de, T, E, F> Visitor<'de> for &mut ExportFields<T, E, F>
where
    T: for<'any> Deserialize<'any>,
    F: FnMut(T) -> Result<(), E>,
{
    type Value = ExportHead;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an export of a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExportHead, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "format" => self.head.format = Some(map.next_value()?),
                "id" => self.head.id = Some(map.next_value()?),
                "serial" => self.head.serial = map.next_value()?,
                // A later format may have another shape.
                "environments" if self.head.format.is_none_or(|format| format <= FORMAT) => {
                    self.head.has_environments = true;
                    map.next_value_seed(&mut *self)?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let PartialHead { format, id, serial, has_environments } = &mut self.head;
        let format = format.ok_or_else(|| A::Error::missing_field("format"))?;
        let id = id.take().ok_or_else(|| A::Error::missing_field("id"))?;
        if !*has_environments {
            return Err(A::Error::missing_field("environments"));
        }
        Ok(ExportHead { format, id, serial: *serial })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<ExportHead, A::Error> {
        while let Some(environment) = sequence.next_element::<T>()? {
            if let Err(refusal) = (self.each)(environment) {
                self.refusal = Some(refusal);
                return Err(A::Error::custom("an environment was refused"));
            }
        }
        Ok(ExportHead::default())
    }
}

/// The list of environments.
impl<'de, T, E, F> DeserializeSeed<'de> for &mut ExportFields<T, E, F>
where
    T: for<'any> Deserialize<'any>,
    F: FnMut(T) -> Result<(), E>,
{
    type Value = ExportHead;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<ExportHead, D::Error> {
        deserializer.deserialize_seq(self)
    }
}
