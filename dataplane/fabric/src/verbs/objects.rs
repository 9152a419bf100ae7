//! Owned objects of libibverbs: each is made once, destroyed on drop, and keeps the arguments that must outlive it.
//! In: sizes and attributes. Out: handles, and the three calls of the data path. libibverbs may be called from any
//! thread (`ibv_alloc_pd(3)` and the others take their own locks), so the handles are `Send` and `Sync`.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem::zeroed;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ibverbs_sys as ffi;

use super::error::VerbsError;
use crate::mapping::Mapping;

/// Devices a host may have; the kernel's list is read up to here.
const DEVICES_MAX: usize = 1024;

/// An opened device.
pub(super) struct Context {
    raw: NonNull<ffi::ibv_context>,
    name: String,
}

/// A protection domain: what is registered in one cannot be reached by a queue pair of another.
pub(super) struct ProtectionDomain {
    raw: NonNull<ffi::ibv_pd>,
    context: Arc<Context>,
}

/// A completion queue.
pub(super) struct CompletionQueue {
    raw: NonNull<ffi::ibv_cq>,
    _context: Arc<Context>,
}

/// Registered, and so pinned, memory.
pub(super) struct MemoryRegion {
    raw: NonNull<ffi::ibv_mr>,
    _domain: Arc<ProtectionDomain>,
    _mapping: Arc<Mapping>,
}

/// A reliable-connected queue pair with a completion queue for each direction.
pub(super) struct RawQueuePair {
    raw: NonNull<ffi::ibv_qp>,
    pub(super) send_queue: CompletionQueue,
    pub(super) receive_queue: CompletionQueue,
    _domain: Arc<ProtectionDomain>,
    /// Bytes a post may carry inline.
    pub(super) inline_bytes: u32,
}

macro_rules! any_thread {
    ($($type:ty),*) => {$(
        // SAFETY: the handle is owned, and libibverbs may be called for it from any thread.
        unsafe impl Send for $type {}
        // SAFETY: as for `Send`; what a call changes is behind libibverbs' own locks.
        unsafe impl Sync for $type {}
    )*};
}
any_thread!(Context, ProtectionDomain, CompletionQueue, MemoryRegion, RawQueuePair);

impl Context {
    /// Opens the device of that name.
    pub(super) fn open(name: &str) -> Result<Context, VerbsError> {
        let device = || name.to_owned();
        let mut count = 0;
        // SAFETY: it fills in `count` and returns a list that is freed below, or null.
        let list = unsafe { ffi::ibv_get_device_list(&raw mut count) };
        if list.is_null() {
            return Err(call("ibv_get_device_list", name, io::Error::last_os_error()));
        }
        let count = usize::try_from(count).unwrap_or(0).min(DEVICES_MAX);
        // SAFETY: the list has `count` entries until it is freed.
        let devices = unsafe { std::slice::from_raw_parts(list, count) };
        let found = devices.iter().find(|device| {
            // SAFETY: the device is of the list, which is not yet freed.
            let listed = unsafe { ffi::ibv_get_device_name(**device) };
            // SAFETY: a listed device has a name, which ends with a zero byte.
            let listed = unsafe { CStr::from_ptr(listed) };
            listed.to_bytes() == name.as_bytes()
        });
        let opened = found.map(|found| {
            // SAFETY: the device is of the list, which is not yet freed.
            let raw = unsafe { ffi::ibv_open_device(*found) };
            NonNull::new(raw).ok_or_else(io::Error::last_os_error)
        });
        // SAFETY: freed once; what was opened stays valid (`ibv_get_device_list(3)`).
        unsafe { ffi::ibv_free_device_list(list) };
        match opened {
            None => Err(VerbsError::NoDriver { device: device() }),
            Some(Ok(raw)) => Ok(Context { raw, name: device() }),
            Some(Err(error)) => Err(VerbsError::of_opening(name, error)),
        }
    }

    /// What the port is like now.
    pub(super) fn query_port(&self, port: u8) -> Result<ffi::ibv_port_attr, VerbsError> {
        let mut attributes = ffi::ibv_port_attr::default();
        // SAFETY: the context is open; the call fills in a prefix of the struct, the rest stays zero.
        let error = unsafe { ffi::ibv_query_port(self.raw.as_ptr(), port, (&raw mut attributes).cast()) };
        check(error).map_err(|error| call("ibv_query_port", &self.name, error))?;
        Ok(attributes)
    }

    /// Work requests the device takes in one queue.
    pub(super) fn depth_max(&self) -> Result<usize, VerbsError> {
        // SAFETY: all-zero bytes are a value of this plain C struct.
        let mut attributes: ffi::ibv_device_attr = unsafe { zeroed() };
        // SAFETY: the context is open, and the call fills in the struct.
        let error = unsafe { ffi::ibv_query_device(self.raw.as_ptr(), &raw mut attributes) };
        check(error).map_err(|error| call("ibv_query_device", &self.name, error))?;
        Ok(usize::try_from(attributes.max_qp_wr.min(attributes.max_cqe)).unwrap_or(0))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl ProtectionDomain {
    pub(super) fn new(context: &Arc<Context>) -> Result<ProtectionDomain, VerbsError> {
        // SAFETY: the context is open, and kept open by the domain.
        let raw = unsafe { ffi::ibv_alloc_pd(context.raw.as_ptr()) };
        let raw = made(raw, "ibv_alloc_pd", context)?;
        Ok(ProtectionDomain { raw, context: Arc::clone(context) })
    }
}

impl CompletionQueue {
    /// One with room for `entries`.
    pub(super) fn new(context: &Arc<Context>, entries: usize) -> Result<CompletionQueue, VerbsError> {
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        // SAFETY: the context is open, and kept open by the queue; no event channel is used.
        let raw =
            unsafe { ffi::ibv_create_cq(context.raw.as_ptr(), entries, ptr::null_mut(), ptr::null_mut(), 0) };
        Ok(CompletionQueue { raw: made(raw, "ibv_create_cq", context)?, _context: Arc::clone(context) })
    }

    /// Fills `into` from its front with the oldest completions; returns how many.
    #[inline]
    pub(super) fn poll(&self, into: &mut [ffi::ibv_wc]) -> usize {
        let room = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
        let queue = self.raw.as_ptr();
        // SAFETY: a queue points to its context as long as it lives.
        let context = unsafe { (*queue).context };
        // SAFETY: a context has its operations as long as it is open.
        let poll = unsafe { (*context).ops.poll_cq }.expect("each driver has poll_cq");
        // SAFETY: `into` has room for `room` entries.
        let polled = unsafe { poll(queue, room, into.as_mut_ptr()) };
        // A negative count says that the queue is damaged; its queue pair is fenced as a silent peer is.
        usize::try_from(polled).unwrap_or(0)
    }
}

impl MemoryRegion {
    /// Registers `bytes` bytes at `at` of the mapping.
    pub(super) fn new(
        domain: &Arc<ProtectionDomain>,
        mapping: &Arc<Mapping>,
        (at, bytes): (usize, usize),
        access: ffi::ibv_access_flags,
    ) -> Result<MemoryRegion, VerbsError> {
        let address = mapping.address(at, bytes).cast();
        // SAFETY: the range is mapped, and stays so as long as the region lives, because it holds the mapping.
        let raw = unsafe { ffi::ibv_reg_mr(domain.raw.as_ptr(), address, bytes, access.0 as c_int) };
        let Some(raw) = NonNull::new(raw) else {
            let error = io::Error::last_os_error();
            return Err(VerbsError::of_registering(bytes, &domain.context.name, error));
        };
        Ok(MemoryRegion { raw, _domain: Arc::clone(domain), _mapping: Arc::clone(mapping) })
    }

    /// The key this end names it by.
    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: a region's fields are readable as long as it lives.
        unsafe { self.raw.as_ref() }.lkey
    }

    /// The key and address the peer names it by.
    pub(super) fn remote(&self) -> super::offer::Remote {
        // SAFETY: as for `local_key`.
        let region = unsafe { self.raw.as_ref() };
        super::offer::Remote { address: region.addr as u64, key: region.rkey }
    }
}

impl RawQueuePair {
    /// One that takes `sends` and `receives` work requests, in the RESET state.
    pub(super) fn new(
        domain: &Arc<ProtectionDomain>,
        sends: usize,
        receives: usize,
        inline_bytes: u32,
    ) -> Result<RawQueuePair, VerbsError> {
        let context = &domain.context;
        VerbsError::check_depth(&context.name, context.depth_max()?, sends.max(receives))?;
        let send_queue = CompletionQueue::new(context, sends)?;
        let receive_queue = CompletionQueue::new(context, receives)?;
        // SAFETY: all-zero bytes are a value of this plain C struct: no shared receive queue, no context.
        let mut wanted: ffi::ibv_qp_init_attr = unsafe { zeroed() };
        wanted.send_cq = send_queue.raw.as_ptr();
        wanted.recv_cq = receive_queue.raw.as_ptr();
        wanted.qp_type = ffi::ibv_qp_type::IBV_QPT_RC;
        wanted.cap.max_send_wr = sends as u32;
        wanted.cap.max_recv_wr = receives as u32;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = inline_bytes;
        // SAFETY: domain and queues live, and the queue pair keeps them.
        let raw = unsafe { ffi::ibv_create_qp(domain.raw.as_ptr(), &raw mut wanted) };
        let raw = made(raw, "ibv_create_qp", context)?;
        let inline_bytes = wanted.cap.max_inline_data;
        Ok(RawQueuePair { raw, send_queue, receive_queue, _domain: Arc::clone(domain), inline_bytes })
    }

    pub(super) fn number(&self) -> u32 {
        // SAFETY: a queue pair's number does not change as long as it lives.
        unsafe { (*self.raw.as_ptr()).qp_num }
    }

    /// Changes the attributes in `mask`. A system call.
    pub(super) fn modify(
        &self,
        attributes: &mut ffi::ibv_qp_attr,
        mask: ffi::ibv_qp_attr_mask,
    ) -> Result<(), io::Error> {
        // SAFETY: the queue pair lives, and the struct is whole.
        check(unsafe { ffi::ibv_modify_qp(self.raw.as_ptr(), attributes, mask.0 as c_int) })
    }

    /// Its state. A system call.
    pub(super) fn state(&self) -> Result<ffi::ibv_qp_state::Type, io::Error> {
        // SAFETY: all-zero bytes are a value of these plain C structs.
        let (mut now, mut made) = unsafe { zeroed::<(ffi::ibv_qp_attr, ffi::ibv_qp_init_attr)>() };
        let mask = ffi::ibv_qp_attr_mask::IBV_QP_STATE.0 as c_int;
        // SAFETY: the queue pair lives, and the call fills in both structs.
        check(unsafe { ffi::ibv_query_qp(self.raw.as_ptr(), &raw mut now, mask, &raw mut made) })?;
        Ok(now.qp_state)
    }

    /// Posts one request to the send queue; whether it was taken.
    ///
    /// # Safety
    /// What the request names stays registered, and unchanged where it is a source, until it completes; what
    /// it carries inline is readable now.
    #[inline]
    pub(super) unsafe fn post_send(&self, request: &mut ffi::ibv_send_wr) -> bool {
        let queue_pair = self.raw.as_ptr();
        // SAFETY: a queue pair points to its context as long as it lives.
        let context = unsafe { (*queue_pair).context };
        // SAFETY: a context has its operations as long as it is open.
        let post = unsafe { (*context).ops.post_send }.expect("each driver has post_send");
        let mut refused = ptr::null_mut();
        // SAFETY: one whole request, whose memory is the caller's to answer for.
        unsafe { post(queue_pair, request, &raw mut refused) == 0 }
    }

    /// Posts one receive; whether it was taken.
    ///
    /// # Safety
    /// The buffer is registered, and this process leaves it alone, until it completes.
    #[inline]
    pub(super) unsafe fn post_receive(&self, request: &mut ffi::ibv_recv_wr) -> bool {
        let queue_pair = self.raw.as_ptr();
        // SAFETY: as in `post_send`.
        let context = unsafe { (*queue_pair).context };
        // SAFETY: as in `post_send`.
        let post = unsafe { (*context).ops.post_recv }.expect("each driver has post_recv");
        let mut refused = ptr::null_mut();
        // SAFETY: one whole request, whose memory is the caller's to answer for.
        unsafe { post(queue_pair, request, &raw mut refused) == 0 }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened once, and nothing made from it is left: everything holds the context.
        let error = unsafe { ffi::ibv_close_device(self.raw.as_ptr()) };
        debug_assert_eq!(error, 0, "ibv_close_device");
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: made once, and nothing made from it is left: everything holds the domain.
        let error = unsafe { ffi::ibv_dealloc_pd(self.raw.as_ptr()) };
        debug_assert_eq!(error, 0, "ibv_dealloc_pd");
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: made once; its queue pair is destroyed before its fields are dropped.
        let error = unsafe { ffi::ibv_destroy_cq(self.raw.as_ptr()) };
        debug_assert_eq!(error, 0, "ibv_destroy_cq");
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: made once. A peer that writes to it after this gets an error.
        let error = unsafe { ffi::ibv_dereg_mr(self.raw.as_ptr()) };
        debug_assert_eq!(error, 0, "ibv_dereg_mr");
    }
}

impl Drop for RawQueuePair {
    fn drop(&mut self) {
        // SAFETY: made once. After this the adapter touches nothing that was posted.
        let error = unsafe { ffi::ibv_destroy_qp(self.raw.as_ptr()) };
        debug_assert_eq!(error, 0, "ibv_destroy_qp");
    }
}

/// libibverbs returns an error number, or -1 and sets `errno`.
fn check(error: c_int) -> Result<(), io::Error> {
    match error {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn made<T>(raw: *mut T, name: &'static str, context: &Context) -> Result<NonNull<T>, VerbsError> {
    NonNull::new(raw).ok_or_else(|| call(name, &context.name, io::Error::last_os_error()))
}

pub(super) fn call(call: &'static str, device: &str, source: io::Error) -> VerbsError {
    VerbsError::Call { call, device: device.to_owned(), source }
}
