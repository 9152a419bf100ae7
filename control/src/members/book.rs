//! Who is known, and who is to go. In: what etcd lists, what it says is gone, and the time. Out: the members. Pure.
//!
//! A member that etcd no longer lists goes at once if its link is down as well: nobody has a use for it. One whose link
//! lives has `grace` to be listed again: etcd may have lost its data, or have stood still for longer than registrations
//! last, and then everybody registers anew. That time is counted only while etcd can be read. Nobody goes while it
//! cannot. A distributor stays for as long as its link lives: to end that would end the connections that come by it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{MEMBERS_MAX, Member, Role};

/// What is known of one member.
struct Known {
    member: Member,
    /// Since when etcd has not listed it, though it could be read.
    absent_since: Option<Instant>,
}

/// The members but for this process.
pub struct Book {
    known: BTreeMap<String, Known>,
    /// How long a member whose link lives stays though it is not listed.
    grace: Duration,
    /// Nodes at most.
    nodes_max: usize,
    /// Somebody found no room; to be read again when there is some.
    refused: bool,
}

/// Why somebody who is listed is no member here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Book {
    /// Nobody is known yet.
    pub fn new(grace: Duration, nodes_max: usize) -> Book {
        Book { known: BTreeMap::new(), grace, nodes_max, refused: false }
    }

    /// All that etcd lists, and nobody else.
    ///
    /// # Errors
    /// Some found no room.
    pub fn read(&mut self, listed: Vec<Member>, now: Instant) -> Result<(), Full> {
        self.refused = false;
        for (name, known) in &mut self.known {
            if !listed.iter().any(|member| member.name == *name) {
                known.absent_since.get_or_insert(now);
            }
        }
        // Everybody who has room gets it, whoever else does not.
        let refused = listed.into_iter().filter_map(|member| self.put(member).err()).last();
        refused.map_or(Ok(()), Err)
    }

    /// One member is listed, or listed otherwise.
    ///
    /// # Errors
    /// There is no room for one more.
    pub fn put(&mut self, member: Member) -> Result<(), Full> {
        if !self.has_room_for(&member) {
            self.refused = true;
            return Err(Full);
        }
        self.known.insert(member.name.clone(), Known { member, absent_since: None });
        Ok(())
    }

    /// One member is no longer listed.
    pub fn delete(&mut self, name: &str, now: Instant) {
        if let Some(known) = self.known.get_mut(name) {
            known.absent_since.get_or_insert(now);
        }
    }

    /// etcd cannot be read: whoever is known stays until it can.
    pub fn cut_off(&mut self) {
        self.known.values_mut().for_each(|known| known.absent_since = None);
    }

    /// Lets go who is to go. Answers whether there is room now for somebody who found none.
    pub fn settle(&mut self, now: Instant, is_linked: impl Fn(&str) -> bool) -> bool {
        let before = self.known.len();
        let grace = self.grace;
        self.known.retain(|name, known| match known.absent_since {
            None => true,
            Some(since) => {
                let has_time = known.member.role == Role::Distributor || now.duration_since(since) < grace;
                is_linked(name) && has_time
            }
        });
        self.refused && self.known.len() < before
    }

    /// The members, in the order of their names.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.known.values().map(|known| &known.member)
    }

    fn has_room_for(&self, member: &Member) -> bool {
        let others = || self.members().filter(|other| other.name != member.name);
        let nodes = others().filter(|other| other.role == Role::Node).count();
        others().count() < MEMBERS_MAX && (member.role != Role::Node || nodes < self.nodes_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn member(name: &str) -> Member {
        let (addresses, port_addresses) = (Vec::new(), Vec::new());
        Member { name: name.into(), role: Role::Node, addresses, incarnation: 1, port_addresses, weight: 1 }
    }

    fn names(book: &Book) -> Vec<&str> {
        book.members().map(|member| member.name.as_str()).collect()
    }

    fn book(listed: &[&str]) -> (Book, Instant) {
        let (mut book, now) = (Book::new(GRACE, 4), Instant::now());
        book.read(listed.iter().map(|name| member(name)).collect(), now).unwrap();
        (book, now)
    }

    #[test]
    fn who_leaves_is_gone_with_its_link() {
        let (mut book, now) = book(&["a", "b"]);
        book.delete("b", now);
        assert!(!book.settle(now, |_| true));
        assert_eq!(names(&book), ["a", "b"], "its link still lives");
        book.settle(now, |name| name == "a");
        assert_eq!(names(&book), ["a"]);
        book.put(member("b")).unwrap();
        assert_eq!(names(&book), ["a", "b"], "it is back");
    }

    #[test]
    fn who_is_not_listed_goes_after_the_grace_though_its_link_lives() {
        let (mut book, now) = book(&["a", "b"]);
        book.delete("a", now);
        book.settle(now + GRACE - Duration::from_millis(1), |_| true);
        assert_eq!(names(&book), ["a", "b"]);
        // Said once more, it has no more time.
        book.delete("a", now + GRACE / 2);
        book.settle(now + GRACE, |_| true);
        assert_eq!(names(&book), ["b"]);
    }

    #[test]
    fn a_distributor_stays_while_its_link_lives() {
        let (mut book, now) = book(&["a"]);
        book.put(Member { role: Role::Distributor, ..member("d") }).unwrap();
        book.read(Vec::new(), now).unwrap();
        book.settle(now + 2 * GRACE, |_| true);
        assert_eq!(names(&book), ["d"]);
        book.settle(now + 2 * GRACE, |_| false);
        assert_eq!(names(&book), [""; 0]);
    }

    #[test]
    fn an_empty_list_drops_nobody_who_comes_back() {
        let (mut book, now) = book(&["a", "b", "c"]);
        book.read(Vec::new(), now).unwrap();
        book.settle(now + GRACE / 2, |_| true);
        book.put(member("a")).unwrap();
        book.read(vec![member("a"), member("b")], now + GRACE / 2).unwrap();
        book.settle(now + GRACE, |_| true);
        assert_eq!(names(&book), ["a", "b"], "c did not come back");
    }

    #[test]
    fn nobody_goes_while_etcd_cannot_be_read() {
        let (mut book, now) = book(&["a", "b"]);
        book.delete("a", now);
        book.cut_off();
        book.settle(now + 10 * GRACE, |_| true);
        book.settle(now + 10 * GRACE, |_| false);
        assert_eq!(names(&book), ["a", "b"]);
        // Read again it is still not there: its time begins.
        book.read(vec![member("b")], now + 10 * GRACE).unwrap();
        book.settle(now + 10 * GRACE, |_| true);
        assert_eq!(names(&book), ["a", "b"]);
        book.settle(now + 11 * GRACE, |_| true);
        assert_eq!(names(&book), ["b"]);
    }

    #[test]
    fn nodes_are_bounded_and_others_are_not_counted_among_them() {
        let (mut book, now) = book(&["a", "b", "c", "d"]);
        assert_eq!(book.put(member("e")), Err(Full));
        book.put(Member { role: Role::Distributor, ..member("x") }).unwrap();
        book.put(Member { incarnation: 2, ..member("d") }).unwrap();
        assert!(!book.settle(now, |_| false), "nobody went");
        book.delete("a", now);
        assert!(book.settle(now, |_| false), "there is room to read e again");
        book.put(member("e")).unwrap();
        assert_eq!(names(&book), ["b", "c", "d", "e", "x"]);
        let crowd =
            (0..MEMBERS_MAX).map(|at| Member { role: Role::Distributor, ..member(&format!("z{at}")) });
        assert_eq!(book.read(crowd.collect(), now), Err(Full));
        assert_eq!(book.members().count(), MEMBERS_MAX);
    }

    proptest! {
        /// Whatever happens, who is listed is known; and once all is read and the grace is over, nobody else is.
        #[test]
        fn knows_who_is_listed(steps in prop::collection::vec((0u8..6, 0usize..4, any::<bool>()), 1..60)) {
            let (mut book, mut now) = (Book::new(GRACE, 4), Instant::now());
            let mut listed = std::collections::BTreeSet::new();
            let all = |listed: &std::collections::BTreeSet<&str>| listed.iter().map(|name| member(name)).collect();
            for (step, at, linked) in steps {
                let name = ["a", "b", "c", "d"][at];
                match step {
                    0 | 1 => {
                        book.put(member(name)).unwrap();
                        listed.insert(name);
                    }
                    2 => {
                        book.delete(name, now);
                        listed.remove(name);
                    }
                    3 => book.read(all(&listed), now).unwrap(),
                    4 => book.cut_off(),
                    _ => now += GRACE / 3,
                }
                book.settle(now, |_| linked);
                prop_assert!(listed.iter().all(|name| names(&book).contains(name)));
            }
            book.read(all(&listed), now).unwrap();
            book.settle(now + GRACE, |_| true);
            prop_assert_eq!(names(&book), listed.into_iter().collect::<Vec<_>>());
        }
    }
}
