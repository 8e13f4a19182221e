"""The tables, as each schema changed them."""

# Append only: entry n brings a file from schema n to n + 1. A file that exists somewhere is never read anew.
MIGRATIONS = ("""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE counter (host TEXT, kind TEXT, count INTEGER, at_s REAL, PRIMARY KEY (host, kind)) WITHOUT ROWID;
CREATE TABLE destination (host TEXT, address TEXT, count INTEGER, at_s REAL,
                          PRIMARY KEY (host, address)) WITHOUT ROWID;
CREATE TABLE verdict (host TEXT PRIMARY KEY, state TEXT, score REAL, since_s REAL, at_s REAL,
                      attempts INTEGER, why TEXT, against REAL, boot TEXT) WITHOUT ROWID;
CREATE TABLE history (id INTEGER PRIMARY KEY, wall TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')),
                      boot TEXT, at_s REAL, kind TEXT, host TEXT, before TEXT, after TEXT,
                      score REAL, attempts INTEGER, why TEXT);
CREATE TABLE standing_order (number INTEGER PRIMARY KEY, kind TEXT, host TEXT, destination TEXT, owner TEXT,
                             reason TEXT, remaining_s REAL, at_s REAL, boot TEXT);
""", """
CREATE TABLE configuration (number INTEGER PRIMARY KEY, digest TEXT, config TEXT, rules TEXT, state TEXT,
                            boot TEXT, ends_s REAL, wall TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')));
CREATE TABLE exposure (history INTEGER PRIMARY KEY, detail TEXT);
CREATE TABLE alert (key TEXT PRIMARY KEY, boot TEXT, at_s REAL, suppressed INTEGER) WITHOUT ROWID;
CREATE TABLE outbox (number INTEGER PRIMARY KEY, channel TEXT, body TEXT, tries INTEGER DEFAULT 0,
                     error TEXT DEFAULT '', wall TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')));
""", """
CREATE TABLE beside_counter (family TEXT, host TEXT, kind TEXT, count INTEGER, at_s REAL,
                             PRIMARY KEY (family, host, kind)) WITHOUT ROWID;
CREATE TABLE beside_destination (family TEXT, host TEXT, address TEXT, count INTEGER, at_s REAL,
                                 PRIMARY KEY (family, host, address)) WITHOUT ROWID;
""", """
ALTER TABLE history ADD COLUMN detail TEXT;
DROP TABLE exposure;
""", """
ALTER TABLE verdict DROP COLUMN against;
ALTER TABLE verdict ADD COLUMN cause TEXT DEFAULT 'unknown';
ALTER TABLE verdict ADD COLUMN firm REAL DEFAULT 0;
ALTER TABLE verdict ADD COLUMN until_s REAL DEFAULT 0;
ALTER TABLE verdict ADD COLUMN memory BLOB;
CREATE TABLE explanation (host TEXT PRIMARY KEY, body TEXT, at_s REAL, boot TEXT) WITHOUT ROWID;
CREATE TABLE volume (host TEXT, window INTEGER, accepted INTEGER, deferred INTEGER, recipients INTEGER,
                     refused INTEGER, PRIMARY KEY (host, window)) WITHOUT ROWID;
CREATE INDEX volume_window ON volume (window);
""", """
CREATE TABLE reported (relay TEXT, host TEXT, epoch INTEGER, sequence INTEGER, accepted INTEGER,
                       deferred INTEGER, recipients INTEGER, refused INTEGER, senders INTEGER,
                       domains INTEGER, PRIMARY KEY (relay, host)) WITHOUT ROWID;
""", """
ALTER TABLE reported ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN most_open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume ADD COLUMN most_messages INTEGER NOT NULL DEFAULT 0;
""")
# Numbers that a file gives anew; and what stays behind: what is in force is written down again.
OWN_NUMBERS = frozenset({("history", "id"), ("outbox", "number")})
NOT_KEPT = frozenset({"configuration"})
SCHEMA = len(MIGRATIONS)
