//! The package on a machine with systemd: the units, and what installing, upgrading and removing does.

use super::machine::Machine;

#[test]
fn a_unit_mounts_its_volume_before_others_start_and_brings_it_back() {
    let machine = Machine::new();
    machine.sh("larder create my-db; systemctl start larder@my-db; echo data > /mnt/larder/my-db/f
                findmnt -no SOURCE /mnt/larder/my-db | grep -x my-db");
    // The server dies, and another one takes over; so does one that a reload asks for.
    machine.sh("exec 9< /mnt/larder/my-db/f; main=$(systemctl show -p MainPID --value larder@my-db)
                server() { larder inspect my-db | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'; }
                kill -9 $(server); grep data <&9; echo more >> /mnt/larder/my-db/f
                old=$(server); systemctl reload larder@my-db; [ $(server) != $old ]; grep more /mnt/larder/my-db/f
                [ $main = $(systemctl show -p MainPID --value larder@my-db) ]; echo data > /mnt/larder/my-db/f");
    // A restart keeps what is mounted, and an order to end does not.
    machine.sh("exec 9< /mnt/larder/my-db/f; cd /mnt/larder/my-db; old=$(systemctl show -p MainPID --value larder@my-db)
                for _ in 1 2 3; do systemctl restart larder@my-db; systemctl reset-failed; grep data f; grep data <&9 || true; done
                [ $(systemctl show -p MainPID --value larder@my-db) != $old ]; echo data > f
                [ $(systemctl show -p NFileDescriptorStore --value larder@my-db) = 0 ]");
    // The server and its holder die, and systemd starts another one.
    machine.sh("systemctl kill -s KILL larder@my-db; until_true 'cat /mnt/larder/my-db/f'; systemctl is-active larder@my-db");
    // Options, and an order to end.
    machine.sh("systemctl reset-failed; mkdir -p /etc/larder; echo 'OPTIONS=-o ro,noatime' > /etc/larder/my-db.env; systemctl restart larder@my-db
                findmnt -no OPTIONS /mnt/larder/my-db | grep noatime; if touch /mnt/larder/my-db/g; then exit 1; fi
                systemctl stop larder@my-db; if mounted my-db; then exit 1; fi; larder check my-db");
    assert_eq!(machine.sh("systemctl is-failed larder@my-db || true"), "inactive");
    // What cannot be mounted says why.
    let status =
        machine.fails("systemctl start larder@missing || { journalctl -u larder@missing -o cat; false; }");
    assert!(status.contains("missing"), "{status}");
    // Enabled, it is there after a power cut.
    machine.sh("rm /etc/larder/my-db.env; systemctl enable -q larder@my-db");
    machine.reboot();
    assert_eq!(machine.sh("cat /mnt/larder/my-db/f"), "data");
    // With another name, it wants another unit, and the command says so.
    let why = machine.fails("larder rename my-db other");
    assert!(why.contains("my-db is mounted on"), "{why}");
    let notes = machine.sh("systemctl stop larder@my-db; larder rename my-db other 2>&1");
    assert!(notes.contains("systemctl disable larder@my-db.service"), "{notes}");
    machine.sh("systemctl disable -q larder@my-db; systemctl enable -q --now larder@other; grep data /mnt/larder/other/f");
}

/// What is mounted answers again only when the unit's main process serves: until then, nobody may look at it.
#[test]
fn a_restart_waits_for_nothing_that_waits_for_it() {
    let machine = Machine::new();
    machine.sh("larder create v; systemctl start larder@v");
    for before in
        ["true", "echo x > f", "echo x > g; ls -la", "mkdir d; ls -la; ls -la d", "rm f g; rmdir d; ls -la"]
    {
        machine.sh(&format!(
            "cd /mnt/larder/v; {{ {before}; }} >/dev/null; cd /; timeout 60 systemctl restart larder@v
             systemctl reset-failed; systemctl is-active larder@v; ls -la /mnt/larder/v >/dev/null"
        ));
    }
    // The directory is made where it is missing.
    machine
        .sh("systemctl stop larder@v; rmdir /mnt/larder/v /mnt/larder; systemctl start larder@v; mounted v
                systemctl stop larder@v; larder check v; rmdir /mnt/larder/v");
}

/// The main process ended with an error, and the mount with it, under the program that stood in the way.
#[test]
fn a_restart_keeps_what_is_mounted_when_its_new_options_cannot_be() {
    let machine = Machine::new();
    machine.sh("larder create v; systemctl start larder@v; exec 9> /mnt/larder/v/f; echo before >&9
                mkdir -p /etc/larder; echo 'OPTIONS=-o ro' > /etc/larder/v.env; systemctl restart larder@v
                systemctl is-active larder@v; echo after >&9; [ $(wc -l < /mnt/larder/v/f) = 2 ]
                journalctl -u larder@v -o cat | grep 'cannot get its new mount options'");
    machine.sh("systemctl stop larder@v; larder check v");
}

/// As on all kernels before Linux 6.9.
#[test]
fn a_unit_leaves_alone_what_nothing_can_take_over() {
    let machine = Machine::new();
    let server = "server() { larder inspect v | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'; }
                  main() { systemctl show -p MainPID --value larder@v; }";
    machine.sh(&format!(
        "{server}; mkdir -p /etc/larder; echo 'OPTIONS=-o transport=fuser' > /etc/larder/v.env; larder create v
         systemctl start larder@v; exec 9> /mnt/larder/v/f; echo 1 >&9; old=$(server)
         if systemctl reload larder@v; then exit 1; fi; [ $(server) = $old ]; echo 2 >&9; systemctl is-active larder@v
         until_true 'journalctl -u larder@v -o cat | grep \"nothing can take over volume\"'
         main=$(main); systemctl restart larder@v; [ $(main) != $main ]; [ $(server) = $old ]; echo 3 >&9
         systemctl is-active larder@v; until_true 'journalctl -u larder@v -o cat | grep \"continues to serve\"'
         systemctl reset-failed; systemctl restart larder@v; [ $(server) = $old ]; echo 4 >&9
         systemctl is-active larder@v
         dpkg -i /exchange/larder.deb > /tmp/said 2>&1; grep -q 'until they are unmounted' /tmp/said
         [ $(server) = $old ]; echo 5 >&9; exec 9>&-; [ $(tr -d '\\n' < /mnt/larder/v/f) = 12345 ]"
    ));
    // An order to end is one, also for the process that only looks after it.
    machine.sh("systemctl stop larder@v; if mounted v; then exit 1; fi; larder check v");
    assert_eq!(machine.sh("systemctl is-failed larder@v || true"), "inactive");
    // When the server dies, the mount is made again, and the unit does not say that it is there before.
    machine.sh(&format!(
        "{server}; systemctl reset-failed; systemctl start larder@v; kill -9 $(server)
         until_true 'grep 5 /mnt/larder/v/f'; until_true 'systemctl is-active larder@v'; mounted v"
    ));
    // When the main process does, the server goes on.
    machine.sh(&format!(
        "{server}; systemctl reset-failed; exec 9>> /mnt/larder/v/f; old=$(server); main=$(main)
         systemctl kill --kill-who=main -s KILL larder@v
         until_true '[ $(main) != $main ] && [ $(main) != 0 ]'; until_true 'systemctl is-active larder@v'
         [ $(server) = $old ]; echo 6 >&9; exec 9>&-; grep 6 /mnt/larder/v/f
         systemctl stop larder@v; if mounted v; then exit 1; fi; larder check v"
    ));
}

/// The package of an earlier version is installed over this one.
#[test]
fn a_unit_leaves_alone_what_the_version_that_is_installed_cannot_take_over() {
    let machine = Machine::new();
    let server = "server() { larder inspect v | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'; }";
    // One that lacks what the store has, as far as it says.
    machine.sh(&format!(
        "{server}; larder create v; systemctl start larder@v; exec 9> /mnt/larder/v/f; echo 1 >&9; old=$(server)
         offers=$(larder serve --offers $(printf %032d 0) | tr -d '\\n' | sed 's/\"unnamed-files\"/\"other\"/')
         mv /usr/bin/larder /usr/bin/larder.new
         printf '#!/bin/sh\\ncase \"$*\" in *--offers*) echo %s; exit;; esac\\nexec /usr/bin/larder.new \"$@\"\\n' \"'$offers'\" > /usr/bin/larder
         chmod 755 /usr/bin/larder; larder serve --offers 0 | grep other
         if larder upgrade v --program /usr/bin/larder; then exit 1; fi; [ $(server) = $old ]
         systemctl restart larder@v; [ $(server) = $old ]; echo 2 >&9; systemctl is-active larder@v
         until_true 'journalctl -u larder@v -o cat | grep \"the store has the feature\"'
         mv /usr/bin/larder.new /usr/bin/larder; systemctl reset-failed; systemctl restart larder@v
         [ $(server) = $old ]; echo 3 >&9; exec 9>&-; [ $(tr -d '\\n' < /mnt/larder/v/f) = 123 ]
         systemctl stop larder@v; if mounted v; then exit 1; fi; larder check v"
    ));
}

/// A wrapper cannot be asked what it can take over.
#[test]
fn a_restart_asks_what_a_wrapper_leads_to_and_kills_no_server_where_that_is_not_known() {
    let machine = Machine::new();
    let functions = "server() { larder inspect v | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'; }
                     begins() { printf '[Service]\\nExecStart=\\nExecStart=%s\\n' \"$1\" > $drop/w.conf; systemctl daemon-reload; }
                     drop=/etc/systemd/system/larder@v.service.d; mkdir -p $drop
                     script() { printf '#!/bin/sh\\n%s\\n' \"$1\" > /usr/local/bin/run; chmod 755 /usr/local/bin/run; }";
    machine.sh(&format!(
        "{functions}; larder create v
         begins \"/bin/sh -c 'exec nice -n 1 /usr/bin/larder mount --foreground --mkdir v /mnt/larder/v'\"
         systemctl start larder@v; exec 9> /mnt/larder/v/f; echo 1 >&9; old=$(server)
         systemctl restart larder@v; [ $(server) != $old ]; echo 2 >&9; systemctl is-active larder@v; old=$(server)
         script 'exec /usr/bin/larder mount --foreground --mkdir \"$1\" /mnt/larder/v'; begins '/usr/local/bin/run v'
         systemctl reset-failed; systemctl restart larder@v; [ $(server) != $old ]; echo 3 >&9; old=$(server)
         script 'L=/usr/bin/larder; exec $L mount --foreground --mkdir \"$1\" /mnt/larder/v'
         systemctl reset-failed; systemctl restart larder@v; [ $(server) = $old ]; echo 4 >&9
         systemctl is-active larder@v
         until_true 'journalctl -u larder@v -o cat | grep \"the unit starts /usr/local/bin/run, and that\"'
         exec 9>&-; [ $(tr -d '\\n' < /mnt/larder/v/f) = 1234 ]; systemctl stop larder@v
         if mounted v; then exit 1; fi; larder check v"
    ));
}

#[test]
fn what_servers_say_is_in_the_journal_under_the_names_of_their_volumes() {
    let machine = Machine::new();
    let has = |args: &str, what: &str| {
        machine.wait_for(&format!("journalctl -q --no-pager -o cat {args} | grep '{what}'"));
    };
    machine.sh(
        "larder create v; larder create w; mkdir /mnt/v; larder mount v /mnt/v; systemctl start larder@w",
    );
    has("LARDER_VOLUME=v", "serving store");
    has("LARDER_VOLUME=w -u larder@w", "serving store");
    machine.sh("larder umount v");
    has("LARDER_VOLUME=v SYSLOG_IDENTIFIER=larder PRIORITY=6", "the server ends");
    machine.sh("[ -z \"$(ls /var/lib/larder/log)\" ]; larder logs v > /tmp/v; grep 'INFO  larder::.* serving store' /tmp/v
                if grep -F \"$(larder logs w -n 1)\" /tmp/v; then exit 1; fi
                [ \"$(larder logs v -n 2)\" = \"$(tail -n 2 /tmp/v)\" ]; larder inspect v | grep 'journalctl LARDER_STORE='
                timeout 60 larder logs -f v > /tmp/follow & larder mount v /mnt/v
                until_true '[ $(grep -c \"serving store\" /tmp/follow) = 2 ]'; kill %1");
    // Where the journal does not answer, there is the file; and all of it is shown.
    machine.sh("systemctl stop systemd-journald-dev-log.socket systemd-journald.socket systemd-journald.service 2>/dev/null
                larder umount v; grep 'the server ends' /var/lib/larder/log/*.log
                systemctl start systemd-journald.socket systemd-journald.service
                larder logs v | tail -n 1 | grep 'the server ends'; [ $(larder logs v | grep -c 'the server ends') = 2 ]");
    // What engines ask before they make a volume is nothing to warn of; what fails is.
    let call = "call() { curl -s --unix-socket /run/docker/plugins/larder.sock -d \"$2\" http://x/VolumeDriver.$1; }";
    machine.sh(&format!(
        "{call}; call Get '{{\"Name\":\"n\"}}' | grep 'no volume'; call Create '{{\"Name\":\"n\"}}'; call Get '{{\"Name\":\"n\"}}' | grep Mountpoint
         call Mount '{{\"Name\":\"other\",\"ID\":\"1\"}}' | grep other"
    ));
    has("-u larder-plugin -p warning", "VolumeDriver.Mount");
    assert_eq!(machine.sh("journalctl -q --no-pager -o cat -u larder-plugin -p warning | wc -l"), "1");
}

#[test]
fn secrets_come_from_the_credentials_store() {
    let machine = Machine::new();
    machine.sh("mkdir -p -m 700 /etc/credstore; head -c 32 /dev/urandom > /etc/credstore/larder.safe.key
                larder create safe --encrypt --key-file /etc/credstore/larder.safe.key; chmod 600 /etc/credstore/*
                systemctl start larder@safe; echo secret > /mnt/larder/safe/f; systemctl stop larder@safe");
    machine.sh("mv /etc/credstore/larder.safe.key /root/key");
    let status = machine.fails("systemctl start larder@safe || { journalctl -u larder@safe -o cat; false; }");
    assert!(status.contains("encrypted"), "{status}");
    // Another place, and encrypted with the machine's own secret.
    machine.sh("systemctl reset-failed
                systemd-creds encrypt --with-key=host --name=larder.safe.key /root/key /root/sealed 2>/dev/null
                mkdir -p /etc/systemd/system/larder@safe.service.d
                printf '[Service]\\nLoadCredentialEncrypted=larder.safe.key:/root/sealed\\n' \
                    > /etc/systemd/system/larder@safe.service.d/key.conf
                systemctl daemon-reload; systemctl start larder@safe; grep secret /mnt/larder/safe/f; systemctl stop larder@safe");
}

#[test]
fn the_driver_starts_when_it_is_needed_and_the_package_comes_and_goes() {
    let machine = Machine::new();
    let list = "curl -s --unix-socket /run/docker/plugins/larder.sock -d '{}' http://x/VolumeDriver.List";
    let active = "systemctl is-active larder-plugin.service || true";
    assert_eq!(
        machine.sh("systemctl is-active larder-plugin.socket; systemctl is-enabled larder-plugin.socket"),
        "active\nenabled"
    );
    assert_eq!(
        machine.sh("systemctl is-active larder-scrub.timer; systemctl is-enabled larder-scrub.timer"),
        "active\nenabled"
    );
    assert_eq!(machine.sh(active), "inactive");
    assert_eq!(machine.sh("stat -c '%a %U' /run/docker/plugins/larder.sock"), "600 root");
    machine.sh(&format!("larder create v; {list} | grep -q '\"v\"'"));
    assert_eq!(machine.sh(active), "active");
    // An upgrade starts the new driver, and what is mounted stays.
    let mount = "curl -s --unix-socket /run/docker/plugins/larder.sock -d '{\"Name\":\"v\",\"ID\":\"1\"}' http://x/VolumeDriver.Mount";
    machine.sh(&format!(
        "dir=$({mount} | sed 's/.*\"Mountpoint\":\"\\([^\"]*\\)\".*/\\1/'); echo data > $dir/f; exec 9< $dir/f
         old=$(systemctl show -p MainPID --value larder-plugin.service); dpkg -i /exchange/larder.deb >/dev/null
         [ $(systemctl show -p MainPID --value larder-plugin.service) != $old ]; {list} | grep -q '\"v\"'
         grep data <&9; mounted v"
    ));
    // It is not taken away under those who use it.
    machine.sh("larder create w; larder mount --mkdir w '/mnt/a - b'");
    let refused = machine.fails("dpkg -r larder");
    assert!(refused.contains("volumes are mounted") && refused.contains("larder umount v "), "{refused}");
    assert!(refused.contains("larder umount w ") && refused.contains("/mnt/a\\040-\\040b)"), "{refused}");
    machine.sh("larder umount w");
    machine.sh(&format!(
        "{} | grep -qv 'Err\":\"[^\"]'; until_true '! mounted v'",
        mount.replace("Mount", "Unmount")
    ));
    machine.sh("dpkg -r larder >/dev/null; [ ! -e /usr/bin/larder ]; [ ! -e /run/docker/plugins/larder.sock ]
                dpkg -i /exchange/larder.deb >/dev/null; larder check v; dpkg -P larder >/dev/null; ls /var/lib/larder/volumes/v");
    assert!(machine.sh("systemctl --failed --no-legend --plain").is_empty());
}

/// Links in the places of programs and units that lead nowhere.
const DANGLING: &str =
    "dangling() { find /etc/systemd /usr/sbin /usr/bin /usr/lib/systemd /usr/share/man -xtype l | sort; }";

#[test]
fn a_purge_says_what_it_keeps_and_leaves_nothing_else() {
    let machine = Machine::new();
    machine.sh(&format!("{DANGLING}; mv /usr/bin/larder /usr/bin/l; dangling > /root/with; mv /usr/bin/l /usr/bin/larder; dangling > /root/before
                [ $(comm -3 /root/with /root/before | wc -l) -ge 5 ]
                larder create v; mkdir -p /etc/larder; echo key > /etc/larder/v.key; systemctl enable -q --now larder@v"));
    // A removal keeps what an installation would have to know, and a purge does not.
    let said = machine.sh("systemctl stop larder@v; dpkg -r larder 2>&1; ls /etc/systemd/system/*.wants/larder@v.service >/dev/null");
    assert!(!said.contains("kept"), "{said}");
    let said = machine.sh("dpkg -P larder 2>&1");
    assert!(
        said.contains("1 volume is kept in /var/lib/larder; once nobody needs it: rm -rf /var/lib/larder"),
        "{said}"
    );
    assert!(said.contains("/etc/larder is kept; it may hold key files"), "{said}");
    machine.sh(&format!("{DANGLING}; ls /var/lib/larder/volumes/v /etc/larder/v.key >/dev/null; [ ! -e /mnt/larder ]; dangling | diff /root/before -
                [ -z \"$(find /etc/systemd /var/lib/systemd -name '*larder*')\" ]"));
    // With two, and without anything.
    let again = "dpkg -i /exchange/larder.deb >/dev/null 2>&1";
    let said = machine.sh(&format!("{again}; larder create w; dpkg -P larder 2>&1"));
    assert!(said.contains("2 volumes are kept in /var/lib/larder"), "{said}");
    let said = machine.sh(&format!("{again}; larder rm --now --force v w; rm /etc/larder/v.key; dpkg -P larder 2>&1; [ ! -e /etc/larder ]"));
    assert!(!said.contains("kept"), "{said}");
}

/// Also where nobody has disabled what is enabled, and where systemd does not run.
#[test]
fn an_erased_rpm_leaves_no_links_that_lead_nowhere() {
    let machine = Machine::new();
    let [rpm, _] = super::packaging::others();
    std::fs::copy(rpm, machine.exchange().join("larder.rpm")).unwrap();
    let rpm = "rpm --force-debian --nodeps";
    machine.sh(&format!("{DANGLING}; dpkg -P larder >/dev/null 2>&1; dangling > /root/before; {rpm} -i /exchange/larder.rpm
                larder create v; echo key > /etc/larder/v.key; systemctl enable -q --now larder@v; systemctl stop larder@v
                ls /etc/systemd/system/*.wants/larder@v.service /etc/systemd/system/*.wants/larder-plugin.socket /usr/sbin/mount.larder"));
    let said = machine.sh(&format!("{rpm} -e larder 2>&1"));
    assert!(said.contains("the volumes in /var/lib/larder are kept"), "{said}");
    assert!(said.contains("/etc/larder is kept; it may hold key files"), "{said}");
    machine.sh(&format!("{DANGLING}; dangling | diff /root/before -; [ ! -e /usr/bin/larder ]; ls /var/lib/larder/volumes/v /etc/larder/v.key
                [ -z \"$(find /etc/systemd /var/lib/systemd /usr/sbin -name '*larder*')\" ]; [ ! -e /mnt/larder ]"));
    // In a tree that something else will boot.
    machine.sh(&format!("mkdir -p /tmp/tree/{{usr,upper,work,etc/systemd/system,var/lib/rpm,dev}}; cd /tmp/tree; ln -s usr/bin usr/sbin usr/lib usr/lib64 .
                mount -t overlay overlay -o lowerdir=/usr,upperdir=upper,workdir=work usr; mount --bind /dev dev; cp -a /etc/alternatives etc
                {rpm} --root /tmp/tree -i /exchange/larder.rpm; chroot . larder --version; chroot . systemctl enable larder@v
                [ $(find etc/systemd -name 'larder*' | wc -l) -ge 4 ]; {rpm} --root /tmp/tree -e larder
                [ -z \"$(find etc/systemd usr/sbin/ usr/bin/ -name '*larder*')\" ]; umount dev usr"));
}

/// What scripts of packages do on a machine, and what `scripts/install` does on one without packages.
#[test]
fn an_rpm_and_an_archive_come_and_go_as_the_package_does() {
    let machine = Machine::new();
    let [rpm, archive] = super::packaging::others();
    std::fs::copy(rpm, machine.exchange().join("larder.rpm")).unwrap();
    std::fs::copy(archive, machine.exchange().join("larder.tar.gz")).unwrap();
    let units = "larder-plugin.socket larder-scrub.timer larder-trash.timer";
    let all_are = |what: &str, times: usize| {
        assert_eq!(machine.sh(&format!("systemctl {what} {units} | sort -u | wc -l")), "1");
        assert_eq!(
            machine.sh(&format!("systemctl {what} --quiet {units}; systemctl {what} {units} | wc -l")),
            times.to_string()
        );
    };
    machine.sh("dpkg -P larder >/dev/null 2>&1; [ ! -e /usr/bin/larder ]; rm -rf /etc/larder");
    // This machine has the libraries, and its database of RPMs does not know.
    let rpm = "rpm --force-debian --nodeps";
    machine.sh(&format!("{rpm} -i /exchange/larder.rpm; rpm -V --nodeps larder"));
    all_are("is-active", 3);
    all_are("is-enabled", 3);
    assert_eq!(machine.sh("stat -c %a /etc/larder"), "700");
    machine.sh("larder create v; systemctl enable -q --now larder@v; larder create w; larder mount --mkdir w '/mnt/a - b'
                exec 9> /mnt/larder/v/f; echo data >&9");
    let refused = machine.fails(&format!("{rpm} -e larder"));
    assert!(
        refused.contains("v on /mnt/larder/v") && refused.contains("w on /mnt/a\\040-\\040b"),
        "{refused}"
    );
    // Over itself: as an upgrade, what is mounted is served by the new one.
    machine.sh(&format!(
        "server() {{ larder inspect v | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'; }}; old=$(server); exec 9>> /mnt/larder/v/f
         {rpm} -U --force /exchange/larder.rpm; [ $(server) != $old ]; echo more >&9; [ $(wc -l < /mnt/larder/v/f) = 2 ]"
    ));
    all_are("is-active", 3);
    machine.sh(&format!(
        "larder umount w; systemctl disable -q --now larder@v; {rpm} -e larder; [ ! -e /usr/bin/larder ]; ls /var/lib/larder/volumes/v
         [ -z \"$(systemctl list-unit-files --no-legend 'larder*')\" ]; [ ! -e /run/docker/plugins/larder.sock ]
         [ -z \"$(find /etc/systemd -name 'larder*')\" ]"
    ));
    // The archive says what is left to do.
    let said = machine.sh("cd /tmp; tar xzf /exchange/larder.tar.gz; larder-*-linux/install");
    let command = format!("systemctl enable --now {units}");
    assert!(said.contains(&command), "{said}");
    machine.sh(&format!("PATH=$PATH:/usr/local/bin; {command} 2>/dev/null; stat -c %a /etc/larder | grep -x 700; larder check v; systemctl start larder@v"));
    all_are("is-active", 3);
    let refused = machine.fails("cd /tmp; larder-*-linux/install --uninstall");
    assert!(refused.contains("v on /mnt/larder/v"), "{refused}");
    machine.sh("/usr/local/bin/larder inspect v >/dev/null; systemctl stop larder@v; cd /tmp; larder-*-linux/install --uninstall
                [ ! -e /usr/local/bin/larder ]; [ ! -e /run/docker/plugins/larder.sock ]; ls /var/lib/larder/volumes/v
                [ -z \"$(systemctl list-unit-files --no-legend 'larder*')\" ]; [ -z \"$(systemctl --failed --no-legend --plain)\" ]");
}

/// What is due is read by the timer's service, also while it is mounted; what is damaged fails it, for whoever watches over units.
#[test]
fn volumes_are_scrubbed_by_systemd() {
    let machine = Machine::new();
    machine.sh("systemctl start larder-scrub.service");
    machine.sh("larder create v; systemctl start larder@v; head -c 1000000 /dev/urandom > /mnt/larder/v/f; sync /mnt/larder/v/f
                systemctl start larder-scrub.service; larder inspect v | grep -q '\"finished\": \"20'; larder status -x | grep -q healthy
                systemctl stop larder@v
                segment=$(ls -S /var/lib/larder/stores/*/segments/* | head -1)
                printf XXXX | dd of=$segment bs=1 seek=500000 conv=notrunc status=none");
    // It was read a moment ago.
    machine.sh("systemctl start larder-scrub.service");
    machine.sh("mkdir -p /etc/systemd/system/larder-scrub.service.d
                printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/larder scrub --all\\n' > /etc/systemd/system/larder-scrub.service.d/now.conf
                systemctl daemon-reload");
    machine.fails("systemctl start larder-scrub.service");
    assert_eq!(machine.sh("systemctl show -p ExecMainStatus --value larder-scrub.service"), "9");
    assert!(machine.fails("larder status -x >&2").contains("v: degraded"), "what is damaged is said");
}
