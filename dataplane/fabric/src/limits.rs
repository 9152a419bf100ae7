//! Bounds of [`Limits`]: what one end may ask for and what two ends agree on. In: two offers. Out: one
//! agreement, or which field is out of bounds. Control thread, at set-up.

use crate::Limits;

/// Largest `message_bytes_max`.
pub const MESSAGE_BYTES_LIMIT: usize = 1 << 20;
/// Largest `receives`; a receive buffer's index is a `u16`.
pub const RECEIVES_LIMIT: usize = 1 << 15;
/// Largest `posted_max`.
pub const POSTED_LIMIT: usize = 1 << 16;
/// Largest `slots_bytes` and `staging_bytes`.
pub const MEMORY_BYTES_LIMIT: usize = 1 << 30;

const _: () = assert!(RECEIVES_LIMIT - 1 <= u16::MAX as usize);
// A descriptor of the shm ring has 31 bits for a length.
const _: () = assert!(MESSAGE_BYTES_LIMIT < 1 << 31);

/// A field of [`Limits`] that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, must be {min} to {max}")]
pub struct LimitsError {
    /// Name of the field.
    pub field: &'static str,
    /// Its value.
    pub value: usize,
    /// Smallest value.
    pub min: usize,
    /// Largest value.
    pub max: usize,
}

impl Limits {
    /// What two ends agree on: the smaller of each field, so neither has to hold more than it offered.
    pub fn agree(self, other: Limits) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max.min(other.message_bytes_max),
            receives: self.receives.min(other.receives),
            posted_max: self.posted_max.min(other.posted_max),
            slots_bytes: self.slots_bytes.min(other.slots_bytes),
            staging_bytes: self.staging_bytes.min(other.staging_bytes),
        }
    }

    /// Whether every field is within its bounds.
    pub fn check(&self) -> Result<(), LimitsError> {
        // The ring of posted receives is one piece of memory as well.
        let ring_bytes = self.receives.saturating_mul(self.message_bytes_max);
        let fields = [
            ("message_bytes_max", self.message_bytes_max, 1, MESSAGE_BYTES_LIMIT),
            ("receives", self.receives, 1, RECEIVES_LIMIT),
            ("posted_max", self.posted_max, 1, POSTED_LIMIT),
            ("slots_bytes", self.slots_bytes, 0, MEMORY_BYTES_LIMIT),
            ("staging_bytes", self.staging_bytes, 0, MEMORY_BYTES_LIMIT),
            ("receives * message_bytes_max", ring_bytes, 1, MEMORY_BYTES_LIMIT),
        ];
        for (field, value, min, max) in fields {
            if !(min..=max).contains(&value) {
                return Err(LimitsError { field, value, min, max });
            }
        }
        Ok(())
    }
}
