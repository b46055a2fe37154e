//! A stand-in for an Infisical server: its status codes, its quirks, and faults on demand.
//!
//! It answers as the server of October 2024 was recorded, and optionally on `/api/v4/secrets` as
//! newer ones do. Writes but the creation of a secret, tokens' renewal and logins other than
//! universal auth are not there: their routes give 404.

mod answer;
mod api;
mod fault;
mod imports;
mod limiter;
mod log;
mod parameters;
mod references;
mod request;
mod secrets;
mod server;
mod state_file;
mod tls;
mod tokens;
mod view;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::server::{Listening, Shared};
use self::tls::Certificates;
use self::world::World;

pub use self::fault::{Fault, Route, Times};
pub use self::log::Logged;
pub use self::world::Identity;

/// Which generation of the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Api {
    /// `/api/v3/secrets/raw` alone: servers up to 2024.
    V3Only,
    /// `/api/v4/secrets` as well.
    #[default]
    V4,
}

/// All that is behind the routes.
#[derive(Debug, Default)]
struct State {
    world: World,
    tokens: tokens::Tokens,
    limiter: limiter::Limiter,
    faults: fault::Faults,
    log: log::Log,
    api: Api,
    ahead: Duration,
    file: Option<FollowedFile>,
}

#[derive(Debug)]
struct FollowedFile {
    path: PathBuf,
    /// As it was read last, good or bad.
    text: String,
}

impl State {
    /// Unix time of the server's clock.
    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default() + self.ahead
    }

    /// Takes over what the state file says now. A file that can't be read or is half written
    /// leaves the data as it was.
    fn follow_file(&mut self) {
        if let Some(file) = &mut self.file
            && let Ok((text, world)) = state_file::read(&file.path)
            && text != file.text
        {
            file.text = text;
            self.world = world;
        }
    }
}

/// A running server on 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct StandIn {
    shared: Shared,
    address: SocketAddr,
    certificates: Option<Certificates>,
    listening: Option<Listening>,
}

impl StandIn {
    /// An empty server on a port of its own, over plain HTTP.
    ///
    /// # Panics
    /// If no port can be had, as with all that starts a server here.
    pub fn start() -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).expect("a port on 127.0.0.1")
    }

    /// As [`StandIn::start`], over TLS with a certificate that only [`StandIn::ca_cert`] vouches for.
    pub fn start_tls() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::new(address, Some(Certificates::make())).expect("a port on 127.0.0.1")
    }

    /// A server at `address` that holds what the file at `path` says, read anew at every request.
    ///
    /// # Errors
    /// If the address can't be had, or the file can't be read or isn't a state file.
    pub fn start_from_file(address: SocketAddr, path: &Path) -> io::Result<Self> {
        let (text, world) = state_file::read(path)?;
        let server = Self::new(address, None)?;
        let mut state = server.shared.lock();
        state.world = world;
        state.file = Some(FollowedFile {
            path: path.into(),
            text,
        });
        drop(state);
        Ok(server)
    }

    fn new(address: SocketAddr, certificates: Option<Certificates>) -> io::Result<Self> {
        let mut server = Self {
            shared: Shared::default(),
            address,
            certificates,
            listening: None,
        };
        server.listen()?;
        Ok(server)
    }

    /// Binds the address, which has its final port after the first time.
    fn listen(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        self.address = listener.local_addr()?;
        let tls = self.certificates.as_ref().map(Certificates::acceptor);
        self.listening = Some(Listening::start(listener, tls, self.shared.clone())?);
        Ok(())
    }

    /// E.g. `http://127.0.0.1:34567`, without a slash at the end.
    pub fn url(&self) -> String {
        match self.certificates {
            Some(_) => format!("https://{}", self.address),
            None => format!("http://{}", self.address),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The PEM file of the authority behind the certificate of [`StandIn::start_tls`].
    pub fn ca_cert(&self) -> Option<PathBuf> {
        self.certificates.as_ref().map(Certificates::authority)
    }

    /// Closes the port and breaks off all connections. Data, tokens and the log stay.
    pub fn stop(&mut self) {
        self.listening = None;
    }

    /// Listens again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        self.listen().expect("the port that was just left");
    }

    /// Which API versions are served from now on.
    pub fn api(&self, api: Api) {
        self.shared.lock().api = api;
    }

    /// Adds a project or another environment of it.
    pub fn add_project(&self, project: &str, environment: &str) {
        self.shared.lock().world.environment(project, environment);
    }

    /// Adds a folder, and the ones above it. Project and environment are made if they are new, as
    /// with all that follows.
    pub fn add_folder(&self, project: &str, environment: &str, path: &str) {
        self.shared.lock().world.folder(project, environment, path);
    }

    /// Removes a folder and what is below it. Imports of it stay behind, as on the real server.
    pub fn remove_folder(&self, project: &str, environment: &str, path: &str) {
        let world = &mut self.shared.lock().world;
        world.remove_folder(project, environment, path);
    }

    /// Sets a secret, as a write through the API would: white space around the value goes, but
    /// for one final line break.
    pub fn set(&self, project: &str, environment: &str, path: &str, key: &str, value: &str) {
        let world = &mut self.shared.lock().world;
        world.set(project, environment, path, key, value);
    }

    /// Adds a second secret with a name that the folder has already.
    pub fn add_duplicate(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        key: &str,
        value: &str,
    ) {
        let world = &mut self.shared.lock().world;
        world.add(project, environment, path, key, value);
    }

    /// Removes every secret with that name from the folder.
    pub fn remove(&self, project: &str, environment: &str, path: &str, key: &str) {
        let world = &mut self.shared.lock().world;
        world.remove(project, environment, path, key);
    }

    /// Makes the folder import these (environment, path), the first one first. Sources need not
    /// be there.
    pub fn set_imports(
        &self,
        project: &str,
        environment: &str,
        path: &str,
        sources: &[(&str, &str)],
    ) {
        let world = &mut self.shared.lock().world;
        world.folder(project, environment, path).imports = sources
            .iter()
            .map(|(environment, path)| ((*environment).into(), (*path).into()))
            .collect();
    }

    /// Adds an identity, or replaces the one with the same client id; its tokens stay good.
    pub fn add_identity(&self, identity: Identity) {
        let identities = &mut self.shared.lock().world.identities;
        identities.insert(identity.client_id.clone(), identity);
    }

    /// How long tokens are good for: `ttl` is their `expiresIn`, `max_ttl` the `exp` of the JWT.
    pub fn token_life(&self, ttl: Duration, max_ttl: Duration) {
        let tokens = &mut self.shared.lock().tokens;
        (tokens.ttl, tokens.max_ttl) = (ttl, max_ttl);
    }

    /// How many requests a token is good for; 0 is without limit.
    pub fn token_uses(&self, uses: u32) {
        self.shared.lock().tokens.max_uses = uses;
    }

    /// Puts the server's clock forward: tokens grow old and limits end without waiting.
    pub fn pass(&self, time: Duration) {
        self.shared.lock().ahead += time;
    }

    /// Revokes every token: 401 `UnauthorizedError` from now on.
    pub fn forget_tokens(&self) {
        self.shared.lock().tokens.forget();
    }

    /// Changes the key that tokens are signed with: 403 `TokenError` for all of before.
    pub fn change_key(&self) {
        self.shared.lock().tokens.change_key();
    }

    /// Allows `limit` requests per route, address and `window`; logins five times as many.
    /// The real server allows 40 in a minute. Off unless this is called.
    pub fn limit_rate(&self, limit: u32, window: Duration) {
        self.shared.lock().limiter.rule = Some((limit, window));
    }

    /// Plans a fault. Of several for the same route the oldest is used up first.
    pub fn fault(&self, route: Route, times: Times, fault: Fault) {
        self.shared.lock().faults.plan(route, times, fault);
    }

    /// Ends all planned faults.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Logged> {
        self.shared.lock().log.entries()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.lock().log.clear();
    }
}
