//! How a call to the model is made.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::Settings;
use super::failure::{Cause, Error};
use super::stream::Stream;
use super::wire::{Message, StreamMode, read_answer, request_body};
use crate::call::Call;
use crate::completion::Completion;
use crate::http_client;
use crate::secret::Secret;
use crate::secrets::{Fetch, Held, Holder};

/// The most retries of a call.
const MAX_RETRIES: u32 = 2;

/// The wait before the first retry, if the server names none. It doubles with each retry.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The longest wait for a retry. If the wait would be longer, the caller gets the error and can decide.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// The least time that an attempt needs. If less would be left after a wait, there is no retry.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// The client of one model server. It lives as long as the process.
#[derive(Debug)]
pub(crate) struct Client {
    http: http_client::Client,
    settings: Settings,
    key: Option<Holder>,
    /// How streams are requested. It becomes simpler if the server turns out to need that.
    mode: Mutex<StreamMode>,
}

/// An answer that the model is still writing.
#[derive(Debug)]
pub(crate) struct StreamedAnswer {
    source: Source,
    /// The key, which no error may contain.
    key: Option<Secret>,
}

#[derive(Debug)]
enum Source {
    Stream(Box<Stream>),
    /// The server did not stream.
    Whole(Completion),
}

/// The outcome of an attempt to start a stream.
enum Started {
    Answer(StreamedAnswer),
    /// The server rejects the request because of `stream` or `stream_options`.
    Rejected,
}

impl Client {
    /// A client of the API that `settings` names.
    pub(crate) fn new(http: http_client::Client, mut settings: Settings) -> Self {
        let key = settings.api_key.take().map(|source| Holder::new(http.clone(), source));
        Self { http, settings, key, mode: Mutex::new(StreamMode::StreamedWithUsage) }
    }

    /// The name of the model.
    pub(crate) fn model(&self) -> &str {
        &self.settings.model
    }

    /// How many tokens an answer may have.
    pub(crate) fn max_output_tokens(&self) -> u64 {
        self.settings.max_output_tokens.into()
    }

    /// Starts to open a connection for the next call, so that it takes less time. Does nothing if there is one
    /// already.
    pub(crate) fn warm_up(&self) {
        self.http.preconnect(&self.settings.base_url);
    }

    /// Returns the key for a call, or starts to read it, which ends by `deadline` at the latest.
    pub(crate) fn fetch_key(&self, deadline: Instant) -> Fetch {
        self.key.as_ref().map_or(Fetch::Done(None), |holder| holder.fetch(deadline))
    }

    /// Asks the model, with this key, to answer `messages`. Blocks until the call's deadline at the latest.
    ///
    /// # Errors
    /// [`Error`] with its [`Cause`].
    pub(crate) fn complete(
        &self,
        key: Option<&Held>,
        messages: &[Message<'_>],
        call: &Call,
    ) -> Result<Completion, Error> {
        let body = request_body(&self.settings, messages, StreamMode::Whole);
        self.with_key(key, call, |key| {
            retrying(call, || {
                let response = self.http.send(self.request(key, &body)?, call.time_left())?;
                read_answer(&response, self.model()).map_err(|error| error.redacted(key))
            })
        })
    }

    /// As [`Client::complete`], but returns as soon as there is text: `take` gets the first deltas of it, and
    /// [`StreamedAnswer::next`] passes on the rest. Until then a failed attempt is retried. A server that does
    /// not stream gives its answer in one delta. The first `keep` bytes of the text are kept for
    /// [`StreamedAnswer::completion`].
    ///
    /// # Errors
    /// [`Error`] with its [`Cause`]; `take` has not been called then.
    pub(crate) fn stream(
        &self,
        key: Option<&Held>,
        messages: &[Message<'_>],
        keep: usize,
        call: &Call,
        mut take: impl FnMut(&str),
    ) -> Result<StreamedAnswer, Error> {
        let mut mode = *self.mode();
        self.with_key(key, call, |key| {
            loop {
                let body = request_body(&self.settings, messages, mode);
                match retrying(call, || self.begin(key, &body, mode, keep, call, &mut take))? {
                    Started::Answer(answer) => {
                        // Remembered only when it has helped: the request may have been rejected for another
                        // reason.
                        *self.mode() = mode;
                        return Ok(answer);
                    }
                    Started::Rejected => {
                        mode = mode.simpler();
                        call.count_retry();
                    }
                }
            }
        })
    }

    /// Runs `ask` with the key and, if the model rejects it, once more with the key that has replaced it.
    fn with_key<T>(
        &self,
        key: Option<&Held>,
        call: &Call,
        mut ask: impl FnMut(Option<&Secret>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let error = match ask(key.map(|held| &held.secret)) {
            Err(error) if error.cause == Cause::AuthFailed => error,
            outcome => return outcome,
        };
        let (Some(holder), Some(rejected)) = (&self.key, key) else { return Err(error) };
        match holder.newer(rejected, call) {
            Ok(Some(newer)) => {
                call.count_retry();
                ask(Some(&newer.secret))
            }
            Ok(None) => Err(error),
            Err(unread) => Err(error.and(&format!("and a newer key could not be read: {unread}"))),
        }
    }

    fn begin(
        &self,
        key: Option<&Secret>,
        body: &[u8],
        mode: StreamMode,
        keep: usize,
        call: &Call,
        take: &mut impl FnMut(&str),
    ) -> Result<Started, Error> {
        let response = self.http.open(self.request(key, body)?, call.time_left())?;
        let is_stream = response.status().is_success() && is_event_stream(response.headers());
        let source = if is_stream {
            let mut stream = Stream::new(response, self.model(), keep);
            stream.begin(take).map_err(|error| error.redacted(key))?;
            Source::Stream(Box::new(stream))
        } else {
            let response = http_client::read_whole(response)?;
            match read_answer(&response, self.model()).map_err(|error| error.redacted(key)) {
                Ok(completion) => {
                    take(&completion.content);
                    Source::Whole(completion)
                }
                Err(error) if error.cause == Cause::Rejected && names_stream(mode, response.body()) => {
                    return Ok(Started::Rejected);
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Started::Answer(StreamedAnswer { source, key: key.cloned() }))
    }

    fn mode(&self) -> MutexGuard<'_, StreamMode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request<'a>(&self, key: Option<&Secret>, body: &'a [u8]) -> Result<Request<&'a [u8]>, Error> {
        let mut request = Request::post(completions_url(&self.settings.base_url)).body(body).map_err(|error| {
            Error::new(Cause::Rejected, format!("the request could not be made: {error}")).unbilled()
        })?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = key
            && let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        {
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        Ok(request)
    }
}

impl StreamedAnswer {
    /// Waits for more of the text, and passes its deltas to `take`. Returns whether there may be more. Blocks
    /// until the call's deadline at the latest.
    ///
    /// # Errors
    /// [`Error`], if the answer broke off or was refused.
    pub(crate) fn next(&mut self, take: impl FnMut(&str)) -> Result<bool, Error> {
        match &mut self.source {
            Source::Stream(stream) => stream.next(take).map_err(|error| error.redacted(self.key.as_ref())),
            Source::Whole(_) => Ok(false),
        }
    }

    /// The answer, once it has ended, with as much of its text as was kept.
    pub(crate) fn completion(&mut self) -> Completion {
        match &mut self.source {
            Source::Stream(stream) => stream.completion(),
            Source::Whole(completion) => std::mem::take(completion),
        }
    }

    /// The length of the text so far, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        match &self.source {
            Source::Stream(stream) => stream.text_bytes(),
            Source::Whole(completion) => completion.content.len(),
        }
    }

    /// Reads what the server still sends after the answer, so that the connection can be used again. Blocks
    /// until the call's deadline at the latest.
    pub(crate) fn release(self) {
        if let Source::Stream(stream) = self.source {
            stream.release();
        }
    }
}

/// Runs `attempt`, and retries it at most [`MAX_RETRIES`] times while the failure is transient and there is
/// enough time for the wait and another attempt.
fn retrying<T>(call: &Call, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut backoff = FIRST_BACKOFF;
    let mut retries = 0;
    loop {
        let error = match attempt() {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        // Jitter, so that rejected callers do not all retry at once.
        let wait = error.retry_after().unwrap_or_else(|| backoff.mul_f64(0.75 + 0.25 * fastrand::f64()));
        let fits = wait <= MAX_WAIT && wait.saturating_add(MIN_ATTEMPT) <= call.time_left();
        if !error.is_transient() || retries == MAX_RETRIES || !fits {
            return Err(error);
        }
        thread::sleep(wait);
        call.count_retry();
        retries += 1;
        backoff *= 2;
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type.to_ascii_lowercase().starts_with(b"text/event-stream")
}

/// Whether a rejection names `stream` or `stream_options`, in whatever form the server's errors have.
fn names_stream(mode: StreamMode, body: &[u8]) -> bool {
    let is_part_of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let mut names = body.split(|byte| !is_part_of_a_name(byte));
    // A request that does not ask for a stream was rejected for another reason.
    mode != StreamMode::Whole && names.any(|name| [&b"stream"[..], b"stream_options", b"include_usage"].contains(&name))
}

/// `base_url` with `/chat/completions` at the end of its path; its query stays.
fn completions_url(base_url: &Uri) -> String {
    let (address, query) = match base_url.query() {
        Some(query) => (base_url.to_string().replace(&format!("?{query}"), ""), format!("?{query}")),
        None => (base_url.to_string(), String::new()),
    };
    format!("{}/chat/completions{query}", address.trim_end_matches('/'))
}
