//! Queue pairs on RDMA adapters: InfiniBand, RoCE, and Soft-RoCE on any network interface.
//!
//! `discover` reads the host, [`choose()`] picks device, port, GID and MTU for the configured address,
//! `Device::prepare` makes one end and its [`Offer`], and `Endpoint::connect` joins it to the peer's. Offers go over
//! an authenticated link: whoever has one can write the slots behind it.
//!
//! Each pair has a protection domain of its own, so its keys open nothing else. The peer may write the slots and the
//! load page, and read nothing; it has no key for receive, staging and send buffers.
//!
//! An adapter tells only its own end of a failure; the other learns of it by its next post, or from the control
//! link, whose thread asks [`Fence::failed`](crate::Fence::failed) and fails its peer's end. `fail` on the worker's end
//! only refuses posts: the move to ERR is a system call, which the control thread makes when it next asks. In error
//! the worker polls until `QueuePair::is_drained`; then the pair may be dropped, or be dropped at once, as destroying
//! it stops the adapter too.

mod address;
mod choose;
mod host;
mod offer;

pub use address::{Address, AddressError};
pub use choose::{Choice, ChooseError, choose};
pub use host::{Device as HostDevice, Gid, GidKind, Host, LinkLayer, Mtu, Port, PortState, Transport};
pub use offer::{OFFER_BYTES, OFFER_VERSION, Offer, OfferError, Remote};

// What is above is plain data; from here on libibverbs is needed.
#[cfg(feature = "verbs")]
mod discover;
#[cfg(feature = "verbs")]
#[allow(unsafe_code)]
mod endpoint;
#[cfg(feature = "verbs")]
mod error;
#[cfg(feature = "verbs")]
mod link;
#[cfg(feature = "verbs")]
#[allow(unsafe_code)]
mod memory;
#[cfg(feature = "verbs")]
#[allow(unsafe_code)]
mod objects;
#[cfg(feature = "verbs")]
#[allow(unsafe_code)]
mod queue_pair;
#[cfg(feature = "verbs")]
mod receives;

#[cfg(feature = "verbs")]
pub use discover::discover;
#[cfg(feature = "verbs")]
pub use endpoint::{Device, Endpoint, prepare};
#[cfg(feature = "verbs")]
pub use error::VerbsError;
#[cfg(feature = "verbs")]
pub use queue_pair::QueuePair;
