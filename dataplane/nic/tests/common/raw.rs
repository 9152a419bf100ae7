//! The other end of a link: a packet socket on a network interface, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

use super::PATIENCE;

/// Set in the child that runs in the namespace.
const INSIDE: &str = "KEYFERRY_TEST_IN_NAMESPACE";

/// Runs the calling test again in a fresh network namespace, which ends with it; true there, false outside.
pub fn inside_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let executable = std::env::current_exe().expect("the test's executable");
    let status = Command::new("unshare")
        .arg("--net")
        .arg(executable)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs (package util-linux)");
    assert!(status.success(), "failed in its namespace, or this is not root: {status}");
    false
}

/// Runs a command that must succeed.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().expect("a command")).args(words).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command}: {status:?}");
}

/// A packet socket bound to one interface.
pub struct Raw(std::fs::File);

impl Raw {
    /// Binds to `interface`, which must be there and up.
    pub fn bind(interface: &str) -> Raw {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain arguments.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
        assert!(socket >= 0, "no packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just opened and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let name = std::ffi::CString::new(interface).expect("a name without NUL");
        // SAFETY: a C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert!(index > 0, "no interface {interface}");
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is a sockaddr_ll of the length given.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        let timeout = libc::timeval { tv_sec: 1, tv_usec: 0 };
        let len = size_of::<libc::timeval>() as u32;
        // SAFETY: the option's value is a timeval of the length given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                len,
            )
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        Raw(socket.into())
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.0.write(frame).expect("the frame is sent"), frame.len());
    }

    /// Waits for a frame that satisfies `wanted`.
    pub fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let start = Instant::now();
        let mut buffer = vec![0; 65_536];
        loop {
            if let Ok(len) = self.0.read(&mut buffer)
                && wanted(&buffer[..len])
            {
                buffer.truncate(len);
                return buffer;
            }
            assert!(start.elapsed() < PATIENCE, "the frame did not arrive");
        }
    }
}
