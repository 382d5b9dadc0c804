//! How a call to the model is made.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::Settings;
use super::failure::{Cause, Error};
use super::stream::Stream;
use super::wire::{Delivery, Message, read_answer, request_body};
use crate::call::Call;
use crate::completion::Completion;
use crate::http_client;
use crate::secret::Secret;

/// How often a call is repeated at most.
const MAX_RETRIES: u32 = 2;

/// The wait before the first repetition when the server names none; it doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// What an attempt needs at least: where less is left after a wait, it is not begun.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// The client of one model server. It lives as long as the process.
#[derive(Debug)]
pub struct Client {
    http: http_client::Client,
    settings: Settings,
    /// How streams are asked for: less where the server has refused more.
    delivery: Mutex<Delivery>,
}

/// An answer that is being written.
#[derive(Debug)]
pub struct Answering {
    source: Source,
    /// The key, which no error may repeat.
    key: Option<Secret>,
}

#[derive(Debug)]
enum Source {
    Stream(Box<Stream>),
    /// The server did not stream.
    Whole(Completion),
}

/// What came of an attempt to have an answer streamed.
enum Begun {
    Answering(Answering),
    /// The server rejects the request because of how the answer is to come.
    Refused,
}

impl Client {
    /// A client of the API that `settings` names.
    #[must_use]
    pub fn new(http: http_client::Client, settings: Settings) -> Self {
        Self { http, settings, delivery: Mutex::new(Delivery::StreamedWithUsage) }
    }

    /// The name of the model that is asked.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.settings.model
    }

    /// Begins to open a connection for the next call, so that it takes less time. Does nothing
    /// where there is one.
    pub fn get_ready(&self) {
        self.http.open_ahead(&self.settings.base_url);
    }

    /// Asks the model to go on after `messages`. Blocks, at the longest until the call's deadline.
    ///
    /// # Errors
    /// [`Error`] with its [`Cause`].
    pub fn complete(&self, messages: &[Message<'_>], call: &Call) -> Result<Completion, Error> {
        let body = request_body(&self.settings, messages, Delivery::Whole);
        retrying(call, || {
            let response = self.http.send(self.request(&body)?, call.time_left())?;
            read_answer(&response, self.model()).map_err(|error| error.without(self.settings.api_key.as_ref()))
        })
    }

    /// As [`Client::complete`], but returns when the model has begun to speak: `take` gets the first
    /// deltas of the text, [`Answering::next`] the rest. Up to then a failed attempt is repeated.
    /// A server that does not stream gives its answer in one delta. Of the text `keep` bytes are kept
    /// for [`Answering::completion`].
    ///
    /// # Errors
    /// [`Error`] with its [`Cause`]; nothing was taken then.
    pub fn stream(
        &self,
        messages: &[Message<'_>],
        keep: usize,
        call: &Call,
        mut take: impl FnMut(&str),
    ) -> Result<Answering, Error> {
        loop {
            let delivery = *self.delivery();
            let body = request_body(&self.settings, messages, delivery);
            match retrying(call, || self.begin(&body, delivery, keep, call, &mut take))? {
                Begun::Answering(answering) => return Ok(answering),
                Begun::Refused => {
                    *self.delivery() = delivery.less();
                    call.count_retry();
                }
            }
        }
    }

    fn begin(
        &self,
        body: &[u8],
        delivery: Delivery,
        keep: usize,
        call: &Call,
        take: &mut impl FnMut(&str),
    ) -> Result<Begun, Error> {
        let key = self.settings.api_key.clone();
        let response = self.http.open(self.request(body)?, call.time_left())?;
        let is_stream = response.status().is_success() && is_event_stream(response.headers());
        let source = if is_stream {
            let mut stream = Stream::new(response, self.model(), keep);
            stream.begin(take).map_err(|error| error.without(key.as_ref()))?;
            Source::Stream(Box::new(stream))
        } else {
            let response = http_client::read_whole(response)?;
            match read_answer(&response, self.model()).map_err(|error| error.without(key.as_ref())) {
                Ok(completion) => {
                    take(&completion.content);
                    Source::Whole(completion)
                }
                Err(error) if error.cause == Cause::Rejected && names_stream(delivery, response.body()) => {
                    return Ok(Begun::Refused);
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Begun::Answering(Answering { source, key }))
    }

    fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request<'a>(&self, body: &'a [u8]) -> Result<Request<&'a [u8]>, Error> {
        let mut request = Request::post(completions_url(&self.settings.base_url))
            .body(body)
            .map_err(|error| Error::new(Cause::Rejected, format!("the request could not be made: {error}")))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.settings.api_key
            && let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        {
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        Ok(request)
    }
}

impl Answering {
    /// Waits for more of the text, and hands its deltas to `take` when they are read; whether there
    /// may be more. Blocks, at the longest until the call's deadline.
    ///
    /// # Errors
    /// [`Error`], when the answer broke off or was refused.
    pub fn next(&mut self, take: impl FnMut(&str)) -> Result<bool, Error> {
        match &mut self.source {
            Source::Stream(stream) => stream.next(take).map_err(|error| error.without(self.key.as_ref())),
            Source::Whole(_) => Ok(false),
        }
    }

    /// The answer, when there is no more: its text as far as it is kept.
    pub fn completion(&mut self) -> Completion {
        match &mut self.source {
            Source::Stream(stream) => stream.completion(),
            Source::Whole(completion) => std::mem::take(completion),
        }
    }

    /// Reads what the server still sends after the answer, so that the connection can be used again.
    /// Blocks, at the longest until the call's deadline.
    pub fn release(self) {
        if let Source::Stream(stream) = self.source {
            stream.release();
        }
    }
}

/// What `attempt` gives, or gives when it is repeated: at most [`MAX_RETRIES`] times, where the
/// failure is a passing one and the time is enough for the wait and another attempt.
fn retrying<T>(call: &Call, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut backoff = FIRST_BACKOFF;
    let mut retries = 0;
    loop {
        let error = match attempt() {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        // Jitter: not all who were turned away come back at the same moment.
        let wait = error.retry_after().unwrap_or_else(|| backoff.mul_f64(0.75 + 0.25 * fastrand::f64()));
        let fits = wait.saturating_add(SHORTEST_ATTEMPT) <= call.time_left();
        if !error.is_passing() || retries == MAX_RETRIES || !fits {
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

/// Whether a server that was asked for a stream names that among the reasons why it rejects the request:
/// `stream`, or `stream_options`, in whatever form its errors have.
fn names_stream(delivery: Delivery, body: &[u8]) -> bool {
    // What asks for no stream is rejected for another reason.
    delivery != Delivery::Whole && String::from_utf8_lossy(body).contains("stream")
}

/// `base_url` with `/chat/completions` at the end of its path; its query stays.
fn completions_url(base_url: &Uri) -> String {
    let (address, query) = match base_url.query() {
        Some(query) => (base_url.to_string().replace(&format!("?{query}"), ""), format!("?{query}")),
        None => (base_url.to_string(), String::new()),
    };
    format!("{}/chat/completions{query}", address.trim_end_matches('/'))
}
