//! What shm takes and gives back. Alone in its process, because it counts mappings and descriptors. In: one
//! connected pair. Out: assertions on what the kernel lists and on the allocator.

use arrayvec::ArrayVec;
use keyferry_fabric::{BURST, Completion, LOAD_BYTES, Limits, QueuePair, WrId, shm};

const LIMITS: Limits = Limits {
    message_bytes_max: 4096,
    receives: 16,
    posted_max: 16,
    slots_bytes: 1 << 16,
    staging_bytes: 1 << 16,
};

/// Mappings of the regions, and descriptors of them.
fn held() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let fds = std::fs::read_dir("/proc/self/fd").expect("proc is mounted");
    let ours = |text: &str| text.contains("memfd:keyferry");
    let fds = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    (maps.lines().filter(|line| ours(line)).count(), fds.filter(|to| to.to_str().is_some_and(ours)).count())
}

/// One of everything a worker does with its end for a request.
fn turn(a: &mut impl QueuePair, b: &mut impl QueuePair, completions: &mut ArrayVec<Completion, BURST>) {
    a.send(WrId(1), &[1; 700]).expect("sent");
    a.staging()[..16_000].fill(2);
    a.write(WrId(2), 0..16_000, 100, Some(3)).expect("written");
    a.write_load(&[4; LOAD_BYTES]).expect("written");
    b.read_load();
    for end in [&mut *a as &mut dyn QueuePair, b] {
        end.poll(completions);
        for completion in completions.drain(..) {
            match completion {
                Completion::Message(received) | Completion::Immediate(received, _) => {
                    end.message(&received);
                    end.repost(received);
                }
                Completion::Posted(_) => {}
                Completion::Flushed(wr) => panic!("{wr:?} was flushed"),
            }
        }
    }
}

#[test]
fn memory_is_mapped_until_the_last_holder_goes_and_nothing_is_allocated_meanwhile() {
    assert_eq!(held(), (0, 0));
    let ((a, a_memory), (b, b_memory)) =
        (shm::prepare(LIMITS).expect("memory"), shm::prepare(LIMITS).expect("memory"));
    let (mut a, a_fence) = a.connect(b_memory).expect("connected");
    let (mut b, b_fence) = b.connect(a_memory).expect("connected");
    // Each end maps both regions; the descriptors are needed to connect only.
    assert_eq!(held(), (4, 0));

    let mut completions = ArrayVec::new();
    let allocations = allocation_counter::measure(|| {
        for _ in 0..10_000 {
            turn(&mut a, &mut b, &mut completions);
        }
    });
    assert_eq!((allocations.count_total, allocations.bytes_total), (0, 0));

    let slots = b.slots();
    drop(a);
    // The control thread's hold does not keep memory.
    a_fence.fail();
    assert_eq!(held(), (2, 0));
    drop(b);
    assert_eq!(held(), (1, 0));
    let mut byte = [0];
    slots.read(100, &mut byte);
    assert_eq!(byte, [2]);
    drop(slots);
    assert_eq!(held(), (0, 0));
    b_fence.fail();
}
