//! What one end tells the other, over an authenticated link, so that two queue pairs become connected. In and out:
//! bytes, bounded and versioned. Control thread, at set-up.
//!
//! All integers are big-endian, nothing is padded:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `kfqp` |
//! | 2 | version |
//! | 1 | link layer: 1 InfiniBand, 2 Ethernet |
//! | 1 | path MTU: 1 (256 bytes) to 5 (4096) |
//! | 1 | 1 if packets to this end need a global routing header, else 0 |
//! | 2 | LID |
//! | 16 | GID |
//! | 4, 4 | queue-pair number, first packet sequence number: 24 bits each |
//! | 8, 4 | address and remote key of the slots |
//! | 8, 4 | address and remote key of the load page |
//! | 5 x 8 | limits, in the order of [`Limits`] |

use std::net::Ipv6Addr;

use super::host::{LinkLayer, Mtu};
use crate::{LOAD_BYTES, Limits, LimitsError};

/// Version of the offer and of the memory behind it.
pub const OFFER_VERSION: u16 = 1;
/// Bytes of an offer.
pub const OFFER_BYTES: usize = 4 + 2 + 1 + 1 + 1 + 2 + 16 + 2 * 4 + 2 * (8 + 4) + 5 * 8;

const MAGIC: [u8; 4] = *b"kfqp";
/// Queue-pair numbers and packet sequence numbers have 24 bits (IBTA vol. 1, 9.2).
const BITS_24: u32 = 0xFF_FFFF;

/// Memory of the offering end that the other may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where it begins, as the offering end's adapter counts.
    pub address: u64,
    /// The key for it.
    pub key: u32,
}

/// One end's half of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What is below the transport.
    pub link_layer: LinkLayer,
    /// The largest packet of the port.
    pub mtu: Mtu,
    /// Whether packets need a global routing header.
    pub global: bool,
    /// Local identifier; 0 on Ethernet.
    pub lid: u16,
    /// GID of the port.
    pub gid: Ipv6Addr,
    /// Queue-pair number.
    pub queue_pair: u32,
    /// The packet sequence number it starts sending with.
    pub sequence: u32,
    /// Its slots.
    pub slots: Remote,
    /// Its load page.
    pub load: Remote,
    /// Sizes it has made room for.
    pub limits: Limits,
}

/// What is wrong with a peer's offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It is too short or too long.
    #[error("the peer's offer has {found} bytes, not {OFFER_BYTES}: run the same release on both")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// It does not begin as one.
    #[error("the peer's offer is none: run the same release on both")]
    Magic,
    /// Another version.
    #[error(
        "the peer offers queue pairs of version {theirs}, this node makes version {OFFER_VERSION}: run the same release on both"
    )]
    Version {
        /// The peer's.
        theirs: u16,
    },
    /// A field is outside its bounds.
    #[error("the peer's offer has no valid {0}: run the same release on both")]
    Field(&'static str),
    /// A size is.
    #[error("the peer's offer: {0}: run the same release on both")]
    Limits(#[from] LimitsError),
}

impl Offer {
    /// The offer's wire form.
    pub fn to_bytes(&self) -> [u8; OFFER_BYTES] {
        let mut bytes = [0; OFFER_BYTES];
        let mut rest = &mut bytes[..];
        let mut put = |field: &[u8]| {
            let (to, after) = std::mem::take(&mut rest).split_at_mut(field.len());
            to.copy_from_slice(field);
            rest = after;
        };
        put(&MAGIC);
        put(&OFFER_VERSION.to_be_bytes());
        put(&[match self.link_layer {
            LinkLayer::InfiniBand => 1,
            LinkLayer::Ethernet => 2,
        }]);
        put(&[self.mtu.code() as u8]);
        put(&[u8::from(self.global)]);
        put(&self.lid.to_be_bytes());
        put(&self.gid.octets());
        put(&self.queue_pair.to_be_bytes());
        put(&self.sequence.to_be_bytes());
        for remote in [self.slots, self.load] {
            put(&remote.address.to_be_bytes());
            put(&remote.key.to_be_bytes());
        }
        let Limits { message_bytes_max, receives, posted_max, slots_bytes, staging_bytes } = self.limits;
        for size in [message_bytes_max, receives, posted_max, slots_bytes, staging_bytes] {
            put(&(size as u64).to_be_bytes());
        }
        debug_assert!(rest.is_empty());
        bytes
    }

    /// Reads a peer's offer; every field of what is returned is within its bounds.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Offer, OfferError> {
        let wrong_length = OfferError::Length { found: bytes.len() };
        // The version is looked at first: another version may have another length.
        let mut rest = Reader(bytes);
        if rest.take::<4>().ok_or(wrong_length)? != MAGIC {
            return Err(OfferError::Magic);
        }
        let theirs = u16::from_be_bytes(rest.take().ok_or(wrong_length)?);
        if theirs != OFFER_VERSION {
            return Err(OfferError::Version { theirs });
        }
        if bytes.len() != OFFER_BYTES {
            return Err(wrong_length);
        }
        let offer = Offer::fields(&mut rest).ok_or(wrong_length)??;
        offer.check()?;
        Ok(offer)
    }

    /// The fields behind the version; `None` if they end early.
    fn fields(rest: &mut Reader<'_>) -> Option<Result<Offer, OfferError>> {
        let link_layer = match rest.take()? {
            [1] => LinkLayer::InfiniBand,
            [2] => LinkLayer::Ethernet,
            [_] => return Some(Err(OfferError::Field("link layer"))),
        };
        let Some(mtu) = Mtu::from_code(u32::from(rest.take::<1>()?[0])) else {
            return Some(Err(OfferError::Field("path MTU")));
        };
        let global = match rest.take()? {
            [0] => false,
            [1] => true,
            [_] => return Some(Err(OfferError::Field("global routing flag"))),
        };
        let lid = u16::from_be_bytes(rest.take()?);
        let gid = Ipv6Addr::from(rest.take::<16>()?);
        let queue_pair = u32::from_be_bytes(rest.take()?);
        let sequence = u32::from_be_bytes(rest.take()?);
        let slots = rest.remote()?;
        let load = rest.remote()?;
        let limits = Limits {
            message_bytes_max: rest.size()?,
            receives: rest.size()?,
            posted_max: rest.size()?,
            slots_bytes: rest.size()?,
            staging_bytes: rest.size()?,
        };
        Some(Ok(Offer { link_layer, mtu, global, lid, gid, queue_pair, sequence, slots, load, limits }))
    }

    fn check(&self) -> Result<(), OfferError> {
        let lid_wanted = self.link_layer == LinkLayer::InfiniBand && !self.global;
        let gid_wanted = self.link_layer == LinkLayer::Ethernet || self.global;
        let fits = |remote: Remote, bytes: usize| remote.address.checked_add(bytes as u64).is_some();
        let fields = [
            // 0 is no LID, and above 0xBFFF they are multicast (IBTA vol. 1, 4.1.3).
            ("LID", !lid_wanted || (1..0xC000).contains(&self.lid)),
            ("global routing flag", self.link_layer != LinkLayer::Ethernet || self.global),
            ("GID", !gid_wanted || !(self.gid.is_unspecified() || self.gid.is_multicast())),
            // 0 and 1 are for management (IBTA vol. 1, 3.9).
            ("queue-pair number", (2..=BITS_24).contains(&self.queue_pair)),
            ("sequence number", self.sequence <= BITS_24),
            ("slots", fits(self.slots, self.limits.slots_bytes)),
            ("load page", fits(self.load, LOAD_BYTES)),
        ];
        for (name, good) in fields {
            if !good {
                return Err(OfferError::Field(name));
            }
        }
        Ok(self.limits.check()?)
    }
}

/// The bytes not yet read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, after) = self.0.split_first_chunk::<N>()?;
        self.0 = after;
        Some(*first)
    }

    fn remote(&mut self) -> Option<Remote> {
        let address = u64::from_be_bytes(self.take()?);
        Some(Remote { address, key: u32::from_be_bytes(self.take()?) })
    }

    /// A size; one too large for this machine is refused with the other large ones.
    fn size(&mut self) -> Option<usize> {
        Some(usize::try_from(u64::from_be_bytes(self.take()?)).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
#[path = "offer_tests.rs"]
mod tests;
