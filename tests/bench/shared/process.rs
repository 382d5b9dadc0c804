//! One process, and what the operating system reports about it.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end after SIGTERM, in milliseconds.
const LONGEST_END: u16 = 10_000;

/// A running program; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// What the program writes. It ends with the program.
    output: PipeReader,
    written: Vec<u8>,
    began: Instant,
}

impl Process {
    /// Starts a program, without input.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let began = Instant::now();
        let child = command.spawn()?;
        // With `command` goes this process's own end of the pipe.
        drop(command);
        Ok(Self { child, output, written: Vec::new(), began })
    }

    /// When the process was requested from the operating system.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Waits until the program has ended by itself. Returns how long after its start that was.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn run_to_end(mut self) -> io::Result<Duration> {
        let status = self.child.wait()?;
        let took = self.began.elapsed();
        if status.success() { Ok(took) } else { Err(io::Error::other(status.to_string())) }
    }

    /// The CPU time of all its threads so far, in user and kernel mode; `None` if the system
    /// does not report it.
    #[cfg(target_os = "linux")]
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into().ok()?);
        Some(nix::time::ClockId::pid_cpu_clock_id(process).ok()?.now().ok()?.into())
    }

    /// `None`, because this system does not report it.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        None
    }

    /// The most memory that was resident so far, in bytes (proc(5), `VmHWM`); `None` if the
    /// system does not report it.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        Some(self.status("VmHWM:")?.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// How many threads it has (proc(5), `Threads`); `None` if the system does not report it.
    pub(crate) fn threads(&self) -> Option<u64> {
        self.status("Threads:")?.trim().parse().ok()
    }

    /// How many page faults it has had so far (proc(5), `minflt` and `majflt`); `None` if the system
    /// does not report it.
    pub(crate) fn page_faults(&self) -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The program's name, which can be anything, is in parentheses; the field after it is the third.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(field(10)? + field(12)?)
    }

    /// A line of proc(5), `/proc/pid/status`, after its name.
    fn status(&self, name: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix(name)).map(ToOwned::to_owned)
    }

    /// Tells the program to end, and waits until it has ended. Returns all that it wrote.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn terminate(mut self) -> io::Result<Vec<u8>> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        while poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LONGEST_END))? > 0 {
            if !self.read_output()? {
                self.child.wait()?;
                return Ok(std::mem::take(&mut self.written));
            }
        }
        Err(io::Error::other(format!("it does not end when it is asked to: {}", self.end())))
    }

    /// Waits for output of the program and reads it. Returns whether the program still runs.
    pub(crate) fn read_output(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        let length = self.output.read(&mut chunk)?;
        self.written.extend_from_slice(&chunk[..length]);
        Ok(length > 0)
    }

    /// What the program has written, as far as that has been read.
    pub(crate) fn written(&self) -> &[u8] {
        &self.written
    }

    /// Ends the program, and returns how it had ended by itself, if it had, and what it has
    /// written, as far as that has been read.
    pub(crate) fn end(&mut self) -> String {
        // It fails only if the program has ended.
        let _ = self.child.kill();
        let by_itself = self.child.wait().ok().filter(|status| status.signal() != Some(Signal::SIGKILL as i32));
        let status = by_itself.map(|status| status.to_string()).unwrap_or_default();
        format!("{status}\n{}", String::from_utf8_lossy(&self.written)).trim().to_owned()
    }
}

impl AsFd for Process {
    /// Ready when there is output, or the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // They fail only if the program has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
