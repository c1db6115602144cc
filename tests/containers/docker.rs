//! Docker Engine in a machine of the tests.

use super::images;
use super::machine::Machine;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};

/// A machine with Docker Engine, the volume driver, and a few images.
pub struct Docker {
    machine: Machine,
}

impl Deref for Docker {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Docker {
    /// Starts an engine whose `daemon.json` has these settings besides those that it needs in a test.
    pub fn new(settings: &str) -> Self {
        let docker = Self { machine: Machine::new() };
        let comma = if settings.is_empty() { "" } else { "," };
        // Networks belong to the host's kernel; nothing here needs one.
        docker.sh(&format!(
            r#"mkdir -p /etc/docker; cat > /etc/docker/daemon.json <<'END'
{{ "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "shutdown-timeout": 3{comma} {settings} }}
END
systemctl enable -q docker.service"#
        ));
        docker.start();
        images::busybox(&docker, "docker");
        docker
    }

    /// Starts the engine and waits until it answers.
    pub fn start(&self) {
        self.sh("systemctl reset-failed; systemctl start docker; until_true 'docker version'");
    }

    /// Stops the engine in good order.
    pub fn stop(&self) {
        self.sh("systemctl stop docker.service docker.socket");
    }

    /// Kills the engine, and waits until systemd has started it again.
    pub fn kill(&self) {
        self.sh("systemctl reset-failed; old=$(pidof dockerd); kill -9 $old
                 until_true 'new=$(pidof dockerd); [ $new != $old ]'; until_true 'docker version'");
    }

    /// The process id of the server of a volume, in the machine.
    pub fn server(&self, volume: &str) -> u32 {
        self.process(volume, "pid")
    }

    /// Kills the server of a volume, and its holder first, so that no other server takes over.
    pub fn kill_server(&self, volume: &str) {
        self.sh(&format!("kill -9 {} {}", self.process(volume, "holder"), self.server(volume)));
    }

    fn process(&self, volume: &str, which: &str) -> u32 {
        let pid =
            self.sh(&format!("larder inspect {volume} | sed -n 's/.*\"{which}\": \\([0-9]*\\).*/\\1/p'"));
        pid.parse().unwrap_or_else(|_| panic!("{volume} has no server: {pid:?}"))
    }
}

/// The engine that tests share which do not restart it.
pub fn shared() -> Arc<Docker> {
    // Kept by its users, so that it ends with the last of them.
    static SHARED: Mutex<Weak<Docker>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    shared.upgrade().unwrap_or_else(|| {
        let docker = Arc::new(Docker::new(""));
        *shared = Arc::downgrade(&docker);
        docker
    })
}
