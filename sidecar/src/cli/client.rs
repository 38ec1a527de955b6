//! How client commands reach an application: through a running sidecar's socket, or through a
//! sidecar of their own that lives as long as the command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kar::config::{DEFAULT_DATA_DIR, HubCommand, SidecarConfig};
use kar::sidecar::{Sidecar, StartError};
use kar_proto::v1::actor_state_service_client::ActorStateServiceClient;
use kar_proto::v1::event_service_client::EventServiceClient;
use kar_proto::v1::invocation_service_client::InvocationServiceClient;
use kar_proto::v1::reminder_service_client::ReminderServiceClient;
use kar_proto::v1::state_service_client::StateServiceClient;
use kar_proto::v1::system_service_client::SystemServiceClient;
use kar_proto::v1::{GetInfoRequest, GetInfoResponse};
use tokio::signal::ctrl_c;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::args::{DataArgs, Durability, ReachArgs};
use super::child::own_executable;
use super::exit::{Code, Effect, Failure, Outcome};

/// How long a sidecar may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the own sidecar may take to leave at the end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is taken, bytes: above every `--message-bytes-max` that makes sense.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a command's own sidecar joins if no application matters.
const NO_APP: &str = "kar-cli";
/// How long a hub that a command started lives on without clients.
const HUB_IDLE_EXIT: &str = "5s";

/// A connection to a sidecar.
#[derive(Debug)]
pub(crate) struct Session {
    transport: Transport,
    own: Option<Sidecar>,
}

/// A channel whose requests carry the token.
pub(crate) type Transport = InterceptedService<Channel, Token>;

/// Puts the API token on every request.
#[derive(Clone, Debug)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

/// How an application is reached.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// Through the sidecar on this socket, and the application it must be of, if that was said.
    Socket(PathBuf, Option<String>),
    /// Through a sidecar of this command's own.
    Own { app: String, data_dir: PathBuf },
}

/// What the environment says.
#[derive(Debug, Default)]
struct Surroundings {
    app: Option<String>,
    socket: Option<PathBuf>,
    data_dir: Option<PathBuf>,
}

// === impl Session ===

impl Session {
    /// Reaches the application.
    pub(crate) async fn open(reach: &ReachArgs) -> Outcome<Self> {
        match route(reach, &Surroundings::read())? {
            Route::Socket(socket, app) => {
                let session = Self::through(&socket, reach.api_token.as_deref()).await?;
                if let Some(app) = app {
                    session.expect_application(&app, &socket).await?;
                }
                Ok(session)
            }
            Route::Own { app, data_dir } => {
                Self::with_own_sidecar(&app, &data_dir, reach.no_peer).await
            }
        }
    }

    /// Connects to the sidecar on `socket`.
    pub(crate) async fn through(socket: &Path, token: Option<&str>) -> Outcome<Self> {
        let transport = connect(socket, token).await?;
        Ok(Self { transport, own: None })
    }

    /// Starts a sidecar that hosts nothing.
    async fn with_own_sidecar(app: &str, data_dir: &Path, no_peer: bool) -> Outcome<Self> {
        let data = DataArgs { data_dir: data_dir.to_owned(), durability: Durability::Fsync };
        let mut config = SidecarConfig::new(app).map_err(|e| Failure::usage(e.to_string()))?;
        config.node_name = Some(format!("cli-{}", std::process::id()));
        config.transient = true;
        config.no_peer = no_peer;
        locate(&mut config, &data)?;
        let is_new = !data_dir.exists();
        let sidecar = Sidecar::start(config).await.map_err(|e| start_failure(&e))?;
        if is_new {
            // Whoever is in the wrong folder would else see an application without anything in it.
            eprintln!("kar: {} is new: nothing has run in it yet", data_dir.display());
        }
        let transport = connect(sidecar.socket(), None).await?;
        Ok(Self { transport, own: Some(sidecar) })
    }

    /// Leaves in order, within a bound.
    pub(crate) async fn close(self) {
        let Some(sidecar) = self.own else { return };
        if tokio::time::timeout(LEAVE_TIMEOUT, sidecar.shutdown()).await.is_err() {
            tracing::warn!("this command's own sidecar did not leave in time");
        }
    }

    /// Returns when this command's own sidecar cannot go on, with the reason; never, if it has none.
    async fn failed(&self) -> String {
        match &self.own {
            Some(sidecar) => sidecar.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Name of the node that lives only as long as this command, if there is one.
    pub(crate) fn own_node(&self) -> Option<&str> {
        self.own.as_ref().map(Sidecar::node_name)
    }

    /// Socket of that node.
    pub(crate) fn own_socket(&self) -> Option<&Path> {
        self.own.as_ref().map(Sidecar::socket)
    }

    /// Calls, tells and started invocations.
    pub(crate) fn invocations(&self) -> InvocationServiceClient<Transport> {
        InvocationServiceClient::new(self.transport.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The application's state.
    pub(crate) fn state(&self) -> StateServiceClient<Transport> {
        StateServiceClient::new(self.transport.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Actors' state.
    pub(crate) fn actor_state(&self) -> ActorStateServiceClient<Transport> {
        ActorStateServiceClient::new(self.transport.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Reminders of actors.
    pub(crate) fn reminders(&self) -> ReminderServiceClient<Transport> {
        ReminderServiceClient::new(self.transport.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Topics.
    pub(crate) fn events(&self) -> EventServiceClient<Transport> {
        EventServiceClient::new(self.transport.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The sidecar itself.
    pub(crate) fn system(&self) -> SystemServiceClient<Transport> {
        SystemServiceClient::new(self.transport.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What the sidecar says of itself.
    pub(crate) async fn info(&self) -> Outcome<GetInfoResponse> {
        let answer = self.system().get_info(GetInfoRequest {}).await;
        Ok(answer.map_err(|s| Failure::from_status(&s, Effect::Reads))?.into_inner())
    }

    async fn expect_application(&self, app: &str, socket: &Path) -> Outcome {
        let found = self.info().await?.application;
        if found == app {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{} belongs to application '{found}', not '{app}'",
            socket.display()
        ))
        .advise("leave out --socket to reach the application through the data directory"))
    }
}

/// Reaches the application, does `work`, prints, leaves. Ctrl-C ends it; `meaning` says what that
/// means once `work` has begun.
pub(crate) async fn with_session(
    reach: &ReachArgs,
    meaning: &str,
    work: impl AsyncFnOnce(&Session) -> Outcome,
) -> Outcome {
    with_session_to_its_end(reach, async |session| {
        tokio::select! {
            outcome = work(session) => outcome,
            _ = ctrl_c() => Err(Failure::new(Code::Interrupted, format!("interrupted; {meaning}"))),
        }
    })
    .await
}

/// The same for `work` that knows itself what Ctrl-C means.
pub(crate) async fn with_session_to_its_end(
    reach: &ReachArgs,
    work: impl AsyncFnOnce(&Session) -> Outcome,
) -> Outcome {
    let session = tokio::select! {
        session = Session::open(reach) => session?,
        _ = ctrl_c() => {
            return Err(Failure::new(Code::Interrupted, "interrupted; nothing was sent"));
        }
    };
    let outcome = tokio::select! {
        outcome = work(&session) => outcome,
        why = session.failed() => return Err(Failure::new(Code::Unavailable, why)),
    };
    tokio::select! {
        () = session.close() => {}
        _ = ctrl_c() => {}
    }
    outcome
}

/// Connects to a sidecar's socket.
async fn connect(socket: &Path, token: Option<&str>) -> Outcome<Transport> {
    let token = match token.filter(|t| !t.is_empty()) {
        None => None,
        Some(token) => Some(format!("Bearer {token}").parse().map_err(|_| {
            Failure::usage("the API token has characters that a header cannot have")
        })?),
    };
    let path = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { kar_unix::connect(path).await.map(TokioIo::new) }
    });
    // The address is not used, but has to be one.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|e| {
        let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), |s| s.to_string());
        Failure::new(
            Code::Unavailable,
            format!("no sidecar answers on {}: {cause}", socket.display()),
        )
        .advise(
            "has it ended? unset KAR_SOCKET (or leave out --socket) to go through the data \
             directory",
        )
    })?;
    Ok(InterceptedService::new(channel, Token(token)))
}

/// Puts data directory and hub command into a sidecar's configuration.
pub(crate) fn locate(config: &mut SidecarConfig, data: &DataArgs) -> Outcome {
    let failed = |what: &str, e: std::io::Error| Failure::internal(format!("{what}: {e}"));
    config.data_dir = std::path::absolute(&data.data_dir)
        .map_err(|e| failed("cannot tell the data directory's path", e))?;
    let dir = config.data_dir.to_str().ok_or_else(|| {
        Failure::usage("the data directory's path is not UTF-8").advise("choose another --data-dir")
    })?;
    let durability = match data.durability {
        Durability::Fsync => "fsync",
        Durability::Os => "os",
    };
    let args = [
        "hub",
        "--data-dir",
        dir,
        "--durability",
        durability,
        "--idle-exit",
        HUB_IDLE_EXIT,
        "--on-demand",
    ];
    config.hub = Some(HubCommand {
        program: own_executable().map_err(|e| failed("cannot find this executable", e))?,
        args: args.map(String::from).into(),
    });
    Ok(())
}

/// What to tell the user when a sidecar did not start.
pub(crate) fn start_failure(error: &StartError) -> Failure {
    let message = error.to_string();
    match error {
        StartError::File { .. } => Failure::new(Code::Unavailable, message)
            .advise("choose a folder of your own that is writable, with --data-dir"),
        StartError::Socket { .. } | StartError::PathTooLong(_) => {
            Failure::usage(message).advise("choose another --socket, or leave it out for a new one")
        }
        StartError::Port { .. } => Failure::usage(message)
            .advise("choose another --grpc-port, or leave it out for any free one"),
        _ => Failure::new(Code::Unavailable, message)
            .advise("`kar doctor` (with the same --data-dir) says what is wrong"),
    }
}

/// Decides how the application is reached: what was said on the command line goes first; the socket
/// of the environment counts only where it leads to the application (and folder) that was asked
/// for.
fn route(reach: &ReachArgs, around: &Surroundings) -> Outcome<Route> {
    if let Some(socket) = &reach.socket {
        return Ok(Route::Socket(socket.clone(), reach.app.clone()));
    }
    let same_app = reach.app.is_none() || reach.app == around.app;
    if let (Some(socket), true, None) = (&around.socket, same_app, &reach.data_dir) {
        return Ok(Route::Socket(socket.clone(), None));
    }
    let app = reach.app.clone().or_else(|| around.app.clone()).ok_or_else(|| {
        Failure::usage("which application?").advise("give --app NAME, or set KAR_APP")
    })?;
    let data_dir = reach.data_dir.clone().or_else(|| around.data_dir.clone());
    Ok(Route::Own { app, data_dir: data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()) })
}

/// The same way, for what is asked of the data directory and not of an application: nobody has to name one, and a
/// sidecar that is started for the command joins [`NO_APP`].
pub(crate) fn of_any_application(reach: &ReachArgs) -> ReachArgs {
    any_application(reach, &Surroundings::read())
}

fn any_application(reach: &ReachArgs, around: &Surroundings) -> ReachArgs {
    let app = match route(reach, around) {
        Ok(_) => reach.app.clone(),
        Err(_) => Some(NO_APP.to_owned()),
    };
    ReachArgs { app, ..reach.clone() }
}

impl Surroundings {
    fn read() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            app: var("KAR_APP").and_then(|name| name.into_string().ok()),
            socket: var("KAR_SOCKET").map(Into::into),
            data_dir: var("KAR_DATA_DIR").map(Into::into),
        }
    }
}

impl Interceptor for Token {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(app: Option<&str>, socket: Option<&str>, data_dir: Option<&str>) -> ReachArgs {
        ReachArgs {
            no_peer: false,
            app: app.map(Into::into),
            socket: socket.map(Into::into),
            data_dir: data_dir.map(Into::into),
            api_token: None,
        }
    }

    fn inside_hello() -> Surroundings {
        Surroundings { app: Some("hello".into()), socket: Some("/run/s".into()), data_dir: None }
    }

    #[test]
    fn the_environments_socket_is_used_for_its_own_application_only() {
        let around = inside_hello();
        let through = Route::Socket("/run/s".into(), None);
        assert_eq!(route(&reach(None, None, None), &around).expect("a route"), through);
        assert_eq!(route(&reach(Some("hello"), None, None), &around).expect("a route"), through);
        let own = Route::Own { app: "bank".into(), data_dir: ".kar".into() };
        assert_eq!(route(&reach(Some("bank"), None, None), &around).expect("a route"), own);
        let elsewhere = Route::Own { app: "hello".into(), data_dir: "/d".into() };
        assert_eq!(route(&reach(None, None, Some("/d")), &around).expect("a route"), elsewhere);
    }

    #[test]
    fn a_socket_on_the_command_line_goes_first() {
        let got = route(&reach(Some("bank"), Some("/x"), None), &inside_hello()).expect("a route");
        assert_eq!(got, Route::Socket("/x".into(), Some("bank".into())));
    }

    #[test]
    fn what_belongs_to_the_data_directory_needs_no_application() {
        let nowhere = Surroundings::default();
        let got = any_application(&reach(None, None, Some("/d")), &nowhere);
        let own = Route::Own { app: NO_APP.into(), data_dir: "/d".into() };
        assert_eq!(route(&got, &nowhere).expect("a route"), own);
        // What there is to go through is gone through.
        let through = any_application(&reach(None, None, None), &inside_hello());
        let socket = Route::Socket("/run/s".into(), None);
        assert_eq!(route(&through, &inside_hello()).expect("a route"), socket);
        assert_eq!(any_application(&reach(Some("a"), None, None), &nowhere).app, Some("a".into()));
    }

    #[test]
    fn without_an_application_it_says_what_to_give() {
        let failure =
            route(&reach(None, None, None), &Surroundings::default()).expect_err("refused");
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.advice.is_some_and(|advice| advice.contains("--app")));
    }
}
