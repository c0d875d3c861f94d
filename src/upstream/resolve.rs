//! Names into addresses, by the operating system.
//!
//! Nothing is kept. `getaddrinfo` does not say how long an answer holds, so an answer serves those
//! connections that were being made while it was on its way, and no other: it cannot outlive its
//! time to live. What that costs is one look-up for each new connection at most, to a cache that is
//! the machine's own (`systemd-resolved`, `dnsmasq`, `nscd`) where it has one.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

/// The addresses of a name, when they come.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Turns names into addresses.
pub trait Resolve: Send + Sync {
    /// The addresses of `name`, each with `port`, in the order in which they are best tried. `asker` is
    /// on whose behalf: what it asks for costs nobody else the wait for a silent name server.
    fn resolve<'a>(&'a self, name: &'a str, port: u16, asker: &'a str) -> Resolving<'a>;

    /// Whether `name` is not asked for yet because `asker` has as many other names looked up as it may. For
    /// who waits for an answer, and for no longer.
    fn waits(&self, _name: &str, _asker: &str) -> bool {
        false
    }
}

/// The operating system's resolver: `/etc/hosts`, DNS, and whatever else the machine is set up for.
#[derive(Clone, Debug, Default)]
pub struct SystemResolver {
    flights: Flights,
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16, asker: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let mut addresses = self.flights.ask(name, asker, Resolver::SYSTEM).await?;
            for address in &mut addresses {
                address.set_port(port);
            }
            Ok(addresses)
        })
    }

    fn waits(&self, name: &str, asker: &str) -> bool {
        let table = self.flights.0.lock();
        table.askers.get(asker).is_some_and(|asker| asker.waiting.contains_key(name))
    }
}

/// Who looks names up, on how many threads at once. The system's resolver blocks one for each name, for
/// as long as a name server is silent, also after nobody waits any more; without a bound, one agent with
/// slow names could take all threads that may block, and what else runs on them (the look at a revoked
/// token, for one) would wait.
#[derive(Clone, Copy)]
struct Resolver {
    places: &'static Semaphore,
    /// Of these, how many one asker may have: with fewer than all, nobody keeps the others waiting.
    share: usize,
    look: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl Resolver {
    const SYSTEM: Self = Self { places: &LOOKUPS, share: 16, look: look_up };
}

static LOOKUPS: Semaphore = Semaphore::const_new(128);

fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

type Answer = Result<Vec<SocketAddr>, Arc<io::Error>>;
type News = watch::Sender<Option<Answer>>;

/// Look-ups under way: who asks for the same name meanwhile, waits for the same answer. A hundred
/// connections to one host, begun at once, are one question to the name server.
#[derive(Clone, Debug, Default)]
struct Flights(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Which have a place, by name: whoever asks for one gets its answer.
    begun: HashMap<Box<str>, Weak<News>>,
    askers: HashMap<Box<str>, Asker>,
}

/// Somebody who waits for answers.
#[derive(Debug)]
struct Asker {
    places: Arc<Semaphore>,
    /// Which wait for a place, by name. Only this asker waits for these: another's turn may come before.
    waiting: HashMap<Box<str>, Weak<News>>,
    /// Look-ups of this asker, begun or waiting.
    flights: usize,
}

impl Asker {
    /// Whether it waits for nothing, and none of its places is taken by a thread that nobody waits for.
    fn is_idle(&self) -> bool {
        self.flights == 0 && Arc::strong_count(&self.places) == 1
    }
}

/// A look-up: for whom, and of what.
struct Flight {
    name: Box<str>,
    asker: Box<str>,
    news: Arc<News>,
}

impl Flights {
    async fn ask(&self, name: &str, asker: &str, by: Resolver) -> io::Result<Vec<SocketAddr>> {
        loop {
            let mut news = self.join(name, asker, by);
            // Gone without an answer: it was given up just when we came.
            let Ok(answer) = news.wait_for(Option::is_some).await.map(|answer| answer.clone())
            else {
                continue;
            };
            return told(answer);
        }
    }

    /// The look-up for this name that is under way, or a new one.
    fn join(&self, name: &str, asker: &str, by: Resolver) -> watch::Receiver<Option<Answer>> {
        let mut table = self.0.lock();
        if let Some(news) = table.begun.get(name).and_then(Weak::upgrade) {
            return news.subscribe();
        }
        let own = table.asker(asker, by.share);
        if let Some(news) = own.waiting.get(name).and_then(Weak::upgrade) {
            return news.subscribe();
        }
        let (news, receiver) = watch::channel(None);
        let news = Arc::new(news);
        own.waiting.insert(name.into(), Arc::downgrade(&news));
        own.flights += 1;
        let share = Arc::clone(&own.places);
        let flight = Flight { name: name.into(), asker: asker.into(), news };
        tokio::spawn(self.clone().fly(flight, share, by));
        receiver
    }

    async fn fly(self, flight: Flight, share: Arc<Semaphore>, by: Resolver) {
        let answer = tokio::select! {
            answer = self.look(&flight, &share, by) => Some(answer.map_err(Arc::new)),
            // Nobody waits any more. What runs already runs to its end, on its thread.
            () = flight.news.closed() => None,
        };
        // What is left of it are the places of threads that still look.
        drop(share);
        // Before the answer is told: who asks from now on asks anew.
        self.0.lock().remove(&flight);
        if let Some(answer) = answer {
            flight.news.send_replace(Some(answer));
        }
    }

    async fn look(
        &self,
        Flight { name, asker, news }: &Flight,
        share: &Arc<Semaphore>,
        Resolver { places, look, .. }: Resolver,
    ) -> io::Result<Vec<SocketAddr>> {
        // First its own: nobody waits for all with a place that others could have.
        let own = Arc::clone(share).acquire_owned().await.map_err(io::Error::other)?;
        let place = (own, places.acquire().await.map_err(io::Error::other)?);
        loop {
            let another = self.0.lock().begin(name, asker, news);
            let Some(mut another) = another else { break };
            if let Ok(answer) = another.wait_for(Option::is_some).await.map(|a| a.clone()) {
                return told(answer);
            }
        }
        let name = name.clone();
        apart(place, move || look(&name)).await
    }
}

/// An answer that is the same for all who waited for it.
fn told(answer: Option<Answer>) -> io::Result<Vec<SocketAddr>> {
    answer
        .unwrap_or_else(|| Ok(Vec::new()))
        .map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

impl Table {
    fn asker(&mut self, name: &str, share: usize) -> &mut Asker {
        if !self.askers.contains_key(name) {
            // Those too whose last thread ended when nobody waited for it any more.
            self.askers.retain(|_, asker| !asker.is_idle());
        }
        self.askers.entry(name.into()).or_insert_with(|| Asker {
            places: Arc::new(Semaphore::new(share)),
            waiting: HashMap::new(),
            flights: 0,
        })
    }

    /// From waiting to begun; or whose answer to wait for, where another asker's was faster.
    fn begin(
        &mut self,
        name: &str,
        asker: &str,
        news: &Arc<News>,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        // Either way it waits for its place no more.
        if let Some(own) = self.askers.get_mut(asker) {
            own.waiting.remove(name);
        }
        if let Some(another) = self.begun.get(name).and_then(Weak::upgrade) {
            return Some(another.subscribe());
        }
        self.begun.insert(name.into(), Arc::downgrade(news));
        None
    }

    fn remove(&mut self, Flight { name, asker, news }: &Flight) {
        let ours = |found: &Weak<News>| std::ptr::eq(found.as_ptr(), Arc::as_ptr(news));
        if self.begun.get(name).is_some_and(ours) {
            self.begun.remove(name);
        }
        let Some(own) = self.askers.get_mut(asker) else { return };
        if own.waiting.get(name).is_some_and(ours) {
            own.waiting.remove(name);
        }
        own.flights -= 1;
        if own.is_idle() {
            self.askers.remove(asker);
        }
    }
}

/// Runs `work` on a thread that may block. The place is given back when the work is done, not when its
/// caller has gone.
async fn apart<T: Send + 'static>(
    place: impl Send + 'static,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let working = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(place);
        result
    });
    working.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Looks with `look`, on so many threads at once, so many of them for each asker.
    fn by(
        places: &'static Semaphore,
        share: usize,
        look: fn(&str) -> io::Result<Vec<SocketAddr>>,
    ) -> Resolver {
        Resolver { places, share, look }
    }

    #[tokio::test]
    async fn a_lookup_holds_its_place_until_it_is_done() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let place = ONE.acquire().await.unwrap();
        let slow = tokio::spawn(apart(place, move || Ok(wait.recv().is_ok())));
        // Once it runs, its caller's patience is no matter.
        tokio::time::sleep(Duration::from_millis(50)).await;
        slow.abort();
        let next = tokio::time::timeout(Duration::from_millis(50), ONE.acquire());
        assert!(next.await.is_err(), "the place was given back too early");
        release.send(()).unwrap();
        let _place = ONE.acquire().await.unwrap();
    }

    #[tokio::test]
    async fn who_asks_meanwhile_waits_for_the_same_answer_and_who_asks_later_asks_anew() {
        static PLACES: Semaphore = Semaphore::const_new(0);
        static LOOKS: AtomicUsize = AtomicUsize::new(0);
        fn look(name: &str) -> io::Result<Vec<SocketAddr>> {
            let octet = u8::try_from(LOOKS.fetch_add(1, Ordering::SeqCst)).unwrap();
            if name == "bad.test" {
                return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
            }
            Ok(vec![SocketAddr::from(([10, 0, 0, octet], 0))])
        }
        let flights = Flights::default();
        let ask = |name: &'static str| {
            let flights = flights.clone();
            tokio::spawn(async move { flights.ask(name, "a", by(&PLACES, 9, look)).await })
        };
        let first: Vec<_> = (0..10).map(|_| ask("a.test")).collect();
        let bad = ask("bad.test");
        while flights.0.lock().waiting() < 2 {
            tokio::task::yield_now().await;
        }
        PLACES.add_permits(1);
        let mut answers = Vec::new();
        for one in first {
            answers.push(one.await.unwrap().unwrap());
        }
        assert_eq!(bad.await.unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(LOOKS.load(Ordering::SeqCst), 2);
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        assert_ne!(ask("a.test").await.unwrap().unwrap(), answers[0]);
        assert!(flights.0.lock().is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_looked_up() {
        static NONE: Semaphore = Semaphore::const_new(0);
        fn look(_: &str) -> io::Result<Vec<SocketAddr>> {
            unreachable!("there is no place")
        }
        let flights = Flights::default();
        for _ in 0..3 {
            let wait = Duration::from_millis(1);
            let asked = tokio::time::timeout(wait, flights.ask("a.test", "a", by(&NONE, 1, look)));
            assert!(asked.await.is_err());
        }
        flights.emptied().await;
    }

    /// Where the names that `asker` waits for are silent, only its own others wait behind them; and a
    /// name that it waits for a place with is nobody else's wait.
    #[tokio::test]
    async fn a_silent_name_server_keeps_nobody_else_waiting() {
        static PLACES: Semaphore = Semaphore::const_new(4);
        static SPEAKS: OnceLock<()> = OnceLock::new();
        fn look(name: &str) -> io::Result<Vec<SocketAddr>> {
            if name.starts_with("silent") {
                SPEAKS.wait();
            }
            let octet = u8::try_from(name.len()).map_err(io::Error::other)?;
            Ok(vec![SocketAddr::from(([10, 0, 0, octet], 0))])
        }
        let flights = Flights::default();
        let ask = |name: &'static str, asker: &'static str| {
            let flights = flights.clone();
            tokio::spawn(async move { flights.ask(name, asker, by(&PLACES, 2, look)).await })
        };
        let names = ["silent-1.test", "silent-2.test", "silent-3.test", "shared.test"];
        let theirs: Vec<_> = names.into_iter().map(|name| ask(name, "slow")).collect();
        while PLACES.available_permits() > 2 || flights.0.lock().waiting() < 2 {
            tokio::task::yield_now().await;
        }
        ask("other.test", "quick").await.unwrap().unwrap();
        ask("shared.test", "quick").await.unwrap().unwrap();
        assert!(theirs.iter().all(|one| !one.is_finished()));
        // Also of those who do not wait for the answer, which their threads still do.
        theirs.iter().for_each(tokio::task::JoinHandle::abort);
        while flights.0.lock().waiting() > 0 {
            tokio::task::yield_now().await;
        }
        let again = ask("silent-4.test", "slow");
        ask("shared.test", "quick").await.unwrap().unwrap();
        assert_eq!(PLACES.available_permits(), 2, "their threads keep their places");
        assert!(!again.is_finished());
        SPEAKS.set(()).unwrap();
        again.await.unwrap().unwrap();
        flights.emptied().await;
    }

    impl Table {
        fn waiting(&self) -> usize {
            self.askers.values().map(|asker| asker.waiting.len()).sum()
        }

        fn is_empty(&self) -> bool {
            self.begun.is_empty() && self.askers.values().all(|asker| asker.flights == 0)
        }
    }

    impl Flights {
        async fn emptied(&self) {
            while !self.0.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}
