//! What a process says first on the fabric's socket, as bytes of any content.
//!
//! Input: a byte that says how to read the rest: as it is, or as a body behind the right first bytes.

use keyferry_fabric::shm::{Hello, NODE_BYTES_MAX, VERSION, WORKERS_MAX};

use crate::input::Input;
use crate::{Seed, Target};

pub(crate) static TARGET: Target = Target { name: "shm_hello", heap_bytes_max: 4096, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let framed = input.u8() & 1 != 0;
    let body = input.rest();
    let mut bytes = Vec::with_capacity(16 + body.len().min(2048));
    if framed {
        bytes.extend_from_slice(b"kffabric");
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    }
    bytes.extend_from_slice(&body[..body.len().min(2048)]);
    let Ok(hello) = Hello::read(&bytes) else { return };
    assert!((1..=NODE_BYTES_MAX).contains(&hello.node.len()), "the name is within its bounds");
    assert!(!hello.node.chars().any(char::is_control), "the name can be logged");
    assert!((1..=WORKERS_MAX).contains(&hello.workers), "the workers are within their bounds");
    let agreed = hello.limits.agree(hello.limits);
    assert_eq!(agreed, hello.limits, "a node agrees with itself");
    let wire = hello.write();
    assert_eq!(wire, bytes, "there is one form of each hello");
    assert_eq!(Hello::read(&wire), Ok(hello));
}

fn seeds() -> Vec<Seed> {
    let body = |node: &[u8], workers: u16| {
        let mut body = vec![1];
        body.extend(7u64.to_le_bytes());
        body.extend([9; 32]);
        body.extend(workers.to_le_bytes());
        for limit in [16_384u64, 64, 256, 1 << 20, u64::MAX] {
            body.extend(limit.to_le_bytes());
        }
        body.extend((node.len() as u16).to_le_bytes());
        body.extend(node);
        body
    };
    let mut whole = vec![0];
    whole.extend(b"kffabric");
    whole.extend(VERSION.to_le_bytes());
    let rest = body(b"node-a", 2);
    whole.extend((rest.len() as u32 - 1).to_le_bytes());
    whole.extend(&rest[1..]);
    vec![
        ("whole".into(), whole),
        ("body".into(), body(b"node-a", 1)),
        ("long".into(), body(&[b'x'; NODE_BYTES_MAX], WORKERS_MAX)),
        ("unicode".into(), body("köln".as_bytes(), 3)),
    ]
}
