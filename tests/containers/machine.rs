//! A machine inside the machine: systemd with its own processes, mounts, control groups, `/run` and boot id, and a copy of the
//! host's files that it can change at will. Docker, Podman and Larder are in their usual places in it, installed and started
//! as their users do it, and nothing of the host is touched.
//!
//! What it runs ends with it, also when the test is killed: it lives as long as a pipe is open.

use crate::support::{run, scratch, wait_until};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// Prepended to all scripts.
const PRELUDE: &str = "set -euo pipefail
    # Waits until a command succeeds.
    until_true() {
        local end=$((SECONDS + 240))
        until eval \"$1\" >/dev/null 2>&1; do
            if [ $SECONDS -ge $end ]; then echo \"never: $1\" >&2; return 1; fi
            sleep 0.1
        done
    }
    # Where volumes are mounted, one a line.
    mounted() { findmnt -rnt fuse.larder -o SOURCE | grep -x \"$1\"; }
";

/// A machine that is running.
pub struct Machine {
    disk: TempDir,
    name: String,
    boot: Mutex<Option<Boot>>,
}

struct Boot {
    script: Child,
    init: i32,
}

impl Machine {
    /// Boots a machine, and installs the `.deb` of the program under test in it.
    pub fn new() -> Self {
        let disk = scratch();
        let name = disk.path().file_name().unwrap().to_str().unwrap().to_owned();
        let machine = Self { disk, name, boot: Mutex::new(None) };
        machine.boot();
        fs::copy(super::packaging::package(), machine.exchange().join("larder.deb")).unwrap();
        machine.sh("dpkg -i /exchange/larder.deb >/dev/null");
        machine
    }

    /// `/exchange` of the machine, as the host sees it.
    pub fn exchange(&self) -> PathBuf {
        self.disk.path().join("exchange")
    }

    fn boot(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/machine.sh");
        let mut script = Command::new("bash")
            .arg(script)
            .arg(self.disk.path())
            .arg(&self.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let init = line.trim().parse().expect("the machine boots");
        *self.boot.lock().unwrap() = Some(Boot { script, init });
        self.sh("until_true '[ -S /run/systemd/private ]'
                 state=$(systemctl is-system-running --wait || true); [ $state = running ] || {
                     echo \"the machine is $state\"; systemctl --failed --no-pager; exit 1; }");
    }

    /// Turns the power off: every process ends at once, every mount and `/run` are gone.
    fn power_off(&self) {
        if let Some(mut boot) = self.boot.lock().unwrap().take() {
            drop(boot.script.stdin.take());
            boot.script.wait().unwrap();
        }
    }

    /// A reboot without a shutdown.
    pub fn reboot(&self) {
        self.power_off();
        self.boot();
    }

    /// Turns it off in good order: everything is stopped, as systemd has it. [`Machine::reboot`] turns it on again.
    pub fn shut_down(&self) {
        let init = self.boot.lock().unwrap().as_ref().expect("the machine is on").init;
        // What is asked for is done before the answer comes.
        self.run("systemctl poweroff --no-block");
        wait_until("the machine is off", || !Path::new(&format!("/proc/{init}")).exists());
        self.power_off();
    }

    fn command(&self, script: &str) -> Command {
        let init = self.boot.lock().unwrap().as_ref().expect("the machine is on").init;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init.to_string(), "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--"])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"])
            .args(["bash", "-c", &format!("{PRELUDE}{script}")])
            .current_dir("/");
        command
    }

    /// Runs a script in it.
    pub fn run(&self, script: &str) -> Output {
        run(&mut self.command(script))
    }

    /// Runs a script in it that must succeed; returns what it printed, without the last newline.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            panic!("{script}\n{}\n{text}{stderr}\n{}", output.status, self.journal());
        }
        text.trim_end_matches('\n').to_owned()
    }

    /// Runs a script in it that must fail; returns what it said.
    #[track_caller]
    pub fn fails(&self, script: &str) -> String {
        let output = self.run(script);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!output.status.success(), "{script}\nsucceeded: {text}");
        text
    }

    /// Waits until a script succeeds, for as long as a busy host may take.
    #[track_caller]
    pub fn wait_for(&self, script: &str) {
        let quoted = script.replace('\'', "'\\''");
        self.sh(&format!("until_true '{quoted}'"));
    }

    /// Ends the volume driver with a signal and waits until another process serves.
    #[track_caller]
    pub fn restart_driver(&self, signal: &str) {
        self.sh(&format!(
            "pid() {{ systemctl show -p MainPID --value larder-plugin.service; }}; old=$(pid); [ $old != 0 ]
             systemctl kill --kill-who=main -s {signal} larder-plugin.service
             until_true '[ $(pid) != $old ]'
             larder-ping() {{ curl -s --unix-socket /run/docker/plugins/larder.sock -d '{{}}' http://x/VolumeDriver.List; }}
             until_true 'larder-ping | grep -q Volumes'"
        ));
    }

    /// The end of what the units have said, for messages of failed tests.
    fn journal(&self) -> String {
        let output = self.run(
            "journalctl --no-pager -q -n 200 -o cat -u docker -u larder-plugin.service -u 'larder@*' | grep -v 'IPv4 forwarding\\|ignoring event' | tail -n 30 | cut -c1-300 || true",
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}
