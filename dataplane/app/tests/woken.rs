//! Tasks that sleep until somebody wakes them: they are asked again when they are woken, from any thread, and not before.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};

use arrayvec::ArrayVec;
use common::*;
use keyferry_app::threads::{Idle, Plan, start};
use keyferry_app::{App, Body, Chunk, PARTS, Part, Port};
use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

/// Says who sleeps: its waker, and what has to be set before it is woken.
type Sleeper = (Waker, Arc<AtomicBool>);

/// Sleeps before its head, and before its body, which is one byte.
struct Sleepy {
    sleepers: mpsc::Sender<Sleeper>,
}

struct Task {
    waker: Waker,
    /// Set: it may go on. `None`: it has not slept yet.
    rested: Option<Arc<AtomicBool>>,
}

impl Sleepy {
    fn rest(&self, task: &mut Task) -> Poll<()> {
        match &task.rested {
            None => {
                let rested = Arc::new(AtomicBool::new(false));
                task.rested = Some(Arc::clone(&rested));
                self.sleepers.send((task.waker.clone(), rested)).expect("the test lives");
                Poll::Pending
            }
            Some(rested) if rested.load(Ordering::SeqCst) => {
                task.rested = None;
                Poll::Ready(())
            }
            Some(_) => Poll::Pending,
        }
    }
}

impl App for Sleepy {
    type Task = Task;

    fn begin(&mut self, _: &Request, _: Time) -> Task {
        Task { waker: Waker::noop().clone(), rested: None }
    }

    fn wake_by(&mut self, task: &mut Task, waker: &Waker) {
        task.waker = waker.clone();
    }

    fn head(&mut self, task: &mut Task, _: &Request, _: Time) -> Poll<ReplyHead> {
        self.rest(task).map(|()| ReplyHead::chunked(200, "text/plain"))
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        self.rest(task).map(|()| {
            out[0] = b'z';
            Body { bytes: 1, end: true }
        })
    }

    fn deadline(&self, _: &Task) -> Option<Time> {
        Some(Time::NEVER)
    }
}

fn wake((waker, rested): &Sleeper) {
    rested.store(true, Ordering::SeqCst);
    waker.wake_by_ref();
}

/// What is ready now.
fn poll(port: &mut Port<Sleepy>) -> ArrayVec<Part, PARTS> {
    let mut parts = ArrayVec::new();
    port.poll(&mut parts);
    parts
}

#[test]
fn a_sleeping_task_is_asked_when_it_is_woken() {
    let (sleepers, sleeping) = mpsc::channel();
    let (mut port, _) = inline(Sleepy { sleepers }, 2);
    assert!(port.submit(job(1, get("/"))).is_ok() && port.submit(job(2, get("/"))).is_ok());
    assert!(poll(&mut port).is_empty());
    let (first, second) = (sleeping.recv().expect("one sleeps"), sleeping.recv().expect("the other too"));
    assert_eq!(port.poll_at(), None);
    assert!(poll(&mut port).is_empty());
    // Woken for nothing: it goes on sleeping.
    first.0.wake_by_ref();
    assert_eq!(port.poll_at(), Some(Time::ZERO));
    assert!(poll(&mut port).is_empty());
    assert_eq!(port.poll_at(), None);
    // Woken twice: asked once. Its head goes out while it sleeps on.
    wake(&first);
    first.0.wake_by_ref();
    let parts = poll(&mut port);
    let [Part::Reply { id, end: None, .. }] = &parts[..] else { panic!("one head") };
    assert_eq!(id.0, 1);
    let body = sleeping.recv().expect("it sleeps again");
    assert!(poll(&mut port).is_empty());
    // Without a chunk there is nothing to do.
    wake(&body);
    assert!(poll(&mut port).is_empty());
    port.more(*id, Chunk::new());
    let parts = poll(&mut port);
    let [Part::Reply { chunk, end: Some(_), .. }] = &parts[..] else { panic!("the end") };
    assert_eq!(chunk.bytes(), b"00000001\r\nz\r\n0\r\n\r\n");
    // One that is over, and one whose place another has now.
    wake(&first);
    port.cancel(keyferry_app::JobId(2));
    wake(&second);
    assert_eq!(poll(&mut port).len(), 2, "a chunk and a request");
    assert!(port.submit(job(3, get("/"))).is_ok() && port.submit(job(4, get("/"))).is_ok());
    wake(&second);
    wake(&first);
    assert!(poll(&mut port).is_empty());
    assert_eq!(sleeping.try_iter().count(), 2);
    assert_eq!(port.outstanding(), 2);
}

/// Woken by another thread while the app thread sleeps, or is about to.
#[test]
fn sleeping_threads_are_woken() {
    const REQUESTS: u64 = 2_000;
    let (sleepers, sleeping) = mpsc::channel::<Sleeper>();
    let waking = std::thread::spawn(move || sleeping.iter().for_each(|sleeper| wake(&sleeper)));
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan { cores: vec![None], workers: 1, jobs_per_worker: 4, slots: None, idle: Idle::Sleep };
    let (mut ports, threads) =
        start(&plan, move || Sleepy { sleepers: sleepers.clone() }, &stop).expect("threads start");
    let mut port = ports.pop().expect("one port");
    let (mut submitted, mut whole) = (0, 0);
    while whole < REQUESTS {
        while submitted < REQUESTS && submitted - whole < 4 {
            assert!(port.submit(job(submitted, get("/"))).is_ok());
            submitted += 1;
        }
        port.flush();
        for part in poll(&mut port) {
            match part {
                Part::Reply { end: Some(_), .. } => whole += 1,
                Part::Reply { id, chunk, end: None } => port.more(id, chunk),
                Part::Spare(_) => {}
                Part::Failed { .. } | Part::Cancelled(_) | Part::Took { .. } | Part::Switched { .. } => {
                    panic!("a reply failed")
                }
            }
        }
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("an app thread failed");
    }
    waking.join().expect("nobody sleeps any more");
}
