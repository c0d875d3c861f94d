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
    /// The addresses of `name`, each with `port`, in the order in which they are best tried.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a>;
}

/// The operating system's resolver: `/etc/hosts`, DNS, and whatever else the machine is set up for.
#[derive(Clone, Debug, Default)]
pub struct SystemResolver {
    flights: Flights,
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
        Box::pin(async move {
            let mut addresses = self.flights.ask(name, &LOOKUPS, look_up).await?;
            for address in &mut addresses {
                address.set_port(port);
            }
            Ok(addresses)
        })
    }
}

fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

/// Names that are looked up at once. The system's resolver blocks a thread for each, for as long as a
/// name server is silent, also after nobody waits any more; without a bound, one agent with slow
/// names could take all threads that may block, and what else runs on them (the look at a revoked
/// token, for one) would wait.
static LOOKUPS: Semaphore = Semaphore::const_new(128);

type Answer = Result<Vec<SocketAddr>, Arc<io::Error>>;
type News = watch::Sender<Option<Answer>>;

/// Look-ups under way: who asks for the same name meanwhile, waits for the same answer. A hundred
/// connections to one host, begun at once, are one question to the name server.
#[derive(Clone, Debug, Default)]
struct Flights(Arc<Mutex<HashMap<Box<str>, Weak<News>>>>);

impl Flights {
    async fn ask(
        &self,
        name: &str,
        places: &'static Semaphore,
        look: fn(&str) -> io::Result<Vec<SocketAddr>>,
    ) -> io::Result<Vec<SocketAddr>> {
        loop {
            let mut news = self.join(name, places, look);
            // Gone without an answer: it was given up just when we came.
            let Ok(answer) = news.wait_for(Option::is_some).await.map(|answer| answer.clone())
            else {
                continue;
            };
            return answer
                .unwrap_or_else(|| Ok(Vec::new()))
                .map_err(|error| io::Error::new(error.kind(), error.to_string()));
        }
    }

    /// The look-up for this name that is under way, or a new one.
    fn join(
        &self,
        name: &str,
        places: &'static Semaphore,
        look: fn(&str) -> io::Result<Vec<SocketAddr>>,
    ) -> watch::Receiver<Option<Answer>> {
        let mut all = self.0.lock();
        if let Some(news) = all.get(name).and_then(Weak::upgrade) {
            return news.subscribe();
        }
        let (news, receiver) = watch::channel(None);
        let news = Arc::new(news);
        all.insert(name.into(), Arc::downgrade(&news));
        tokio::spawn(self.clone().fly(name.into(), news, places, look));
        receiver
    }

    async fn fly(
        self,
        name: Box<str>,
        news: Arc<News>,
        places: &'static Semaphore,
        look: fn(&str) -> io::Result<Vec<SocketAddr>>,
    ) {
        let asked = name.clone();
        let answer = tokio::select! {
            answer = apart(places, move || look(&asked)) => Some(answer.map_err(Arc::new)),
            // Nobody waits any more. What runs already runs to its end, on its thread.
            () = news.closed() => None,
        };
        // Before the answer is told: who asks from now on asks anew.
        self.0.lock().remove(&name);
        if let Some(answer) = answer {
            news.send_replace(Some(answer));
        }
    }
}

/// Runs `work` on a thread that may block, when there is a place. The place is given back when the
/// work is done, not when its caller has gone.
async fn apart<T: Send + 'static>(
    places: &'static Semaphore,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place = places.acquire().await.map_err(io::Error::other)?;
    let working = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(place);
        result
    });
    working.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lookup_holds_its_place_until_it_is_done() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let slow = tokio::spawn(apart(&ONE, move || Ok(wait.recv().is_ok())));
        while ONE.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // Once it runs, its caller's patience is no matter.
        tokio::time::sleep(Duration::from_millis(50)).await;
        slow.abort();
        let next = tokio::time::timeout(Duration::from_millis(50), apart(&ONE, || Ok(())));
        assert!(next.await.is_err(), "the place was given back too early");
        release.send(()).unwrap();
        apart(&ONE, || Ok(())).await.unwrap();
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
            tokio::spawn(async move { flights.ask(name, &PLACES, look).await })
        };
        let first: Vec<_> = (0..10).map(|_| ask("a.test")).collect();
        let bad = ask("bad.test");
        while flights.0.lock().len() < 2 {
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
            let asked = tokio::time::timeout(wait, flights.ask("a.test", &NONE, look));
            assert!(asked.await.is_err());
        }
        while !flights.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
