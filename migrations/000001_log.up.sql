-- The whole schema in its first form. docs/schema.sql shows it as PostgreSQL
-- sees it. Times are UTC; interval numbers are Unix seconds / 600.

------------------------------------------------------------------------------
-- Who may upload, and what is published: kept by `enctl apply`.

CREATE TABLE health_authority (
    authority_id   integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer         text        NOT NULL UNIQUE,
    audience       text        NOT NULL,
    name           text        NOT NULL,
    jwks_uri       text        NOT NULL DEFAULT '',  -- of its key set; '': it has none
    stats_api      boolean     NOT NULL DEFAULT false,
    jwks_read_at   timestamptz,                      -- when that set was last taken over; NULL: never
    jwks_failed_at timestamptz,                      -- when something was last wrong with it, and what
    jwks_failure   text        NOT NULL DEFAULT ''
);

CREATE TABLE health_authority_key (
    authority_id  integer     NOT NULL REFERENCES health_authority ON DELETE CASCADE,
    version       text        NOT NULL,              -- the "kid" of its certificates
    public_key    text        NOT NULL,              -- PEM
    valid_from    timestamptz NOT NULL DEFAULT '-infinity',
    valid_thru    timestamptz NOT NULL DEFAULT 'infinity',
    source        text        NOT NULL DEFAULT '',   -- '': the configuration; else the jwks_uri it was found at, which must still be the authority's
    PRIMARY KEY (authority_id, version, source)
);

CREATE TABLE authorized_app (
    app_id              text    PRIMARY KEY CHECK (app_id = lower(app_id)),
    regions             text[]  NOT NULL,
    skip_certificate    boolean NOT NULL DEFAULT false,
    skip_revision_token boolean NOT NULL DEFAULT false,
    attestation         jsonb                         -- what its devices must prove; NULL: nothing
);

CREATE TABLE authorized_app_authority (
    app_id        text    NOT NULL REFERENCES authorized_app ON DELETE CASCADE,
    authority_id  integer NOT NULL REFERENCES health_authority ON DELETE CASCADE,
    PRIMARY KEY (app_id, authority_id)
);

CREATE TABLE signing_key (
    name          text        PRIMARY KEY,
    key_url       text        NOT NULL,
    key_id        text        NOT NULL,
    key_version   text        NOT NULL,
    valid_from    timestamptz NOT NULL DEFAULT '-infinity',
    leads_from    timestamptz NOT NULL DEFAULT '-infinity',  -- until then it stands behind those that lead
    valid_thru    timestamptz NOT NULL DEFAULT 'infinity'
);

-- An export is never deleted: the names of its objects must not be used again.
CREATE TABLE export (
    export_id       integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text        NOT NULL UNIQUE,
    bucket          text        NOT NULL,
    root            text        NOT NULL,
    region          text        NOT NULL,
    input_regions   text[]      NOT NULL,
    exclude_regions text[]      NOT NULL DEFAULT '{}',
    travelers       text        NOT NULL DEFAULT 'own-region'
                    CHECK (travelers IN ('include', 'own-region', 'exclude')),
    provenance      text        NOT NULL DEFAULT 'any'
                    CHECK (provenance IN ('any', 'local')),
    period          interval    NOT NULL CHECK (period > '0'),
    valid_from      timestamptz NOT NULL DEFAULT '-infinity',
    valid_thru      timestamptz NOT NULL DEFAULT 'infinity',
    backfill        boolean     NOT NULL DEFAULT false,
    max_records     integer     NOT NULL DEFAULT 0,  -- 0: the server's default
    created_at      timestamptz NOT NULL,

    -- The cursor, moved by the batcher alone and set when it first meets the
    -- export: every epoch up to last_epoch has been cut into a batch.
    last_epoch      integer,
    last_end        timestamptz,
    cut_at          timestamptz,

    -- The index is a projection of the files; each change of it has a number,
    -- and written_sequence is the newest that is known to be in the bucket.
    index_sequence   bigint     NOT NULL DEFAULT 0,
    written_sequence bigint     NOT NULL DEFAULT 0,

    UNIQUE (bucket, root)
);

CREATE TABLE export_signing_key (
    export_id     integer NOT NULL REFERENCES export ON DELETE CASCADE,
    name          text    NOT NULL REFERENCES signing_key ON DELETE CASCADE,
    PRIMARY KEY (export_id, name)
);

-- The keys that encrypt revision tokens, wrapped by the key manager.
CREATE TABLE revision_key (
    revision_key_id  integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wrapped          bytea       NOT NULL,
    created_at       timestamptz NOT NULL,
    kept_at          timestamptz                     -- when an instance still had to seal with it, replaced or not
);

CREATE TABLE audit_log (
    audit_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    who       text        NOT NULL,
    action    text        NOT NULL,
    detail    text        NOT NULL
);

------------------------------------------------------------------------------
-- The log: arrivals are sealed into epochs of exposures.

-- One row. Whoever seals locks it first and holds it to the commit. The
-- identity tells positions in this log from those in another one, for example
-- in a database that was restored.
CREATE TABLE log_head (
    singleton   boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    identity    uuid        NOT NULL DEFAULT gen_random_uuid(),
    last_epoch  integer     NOT NULL DEFAULT 0,
    sealed_at   timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO log_head DEFAULT VALUES;

CREATE TABLE epoch (
    epoch      integer     PRIMARY KEY,
    sealed_at  timestamptz NOT NULL,
    keys       integer     NOT NULL,
    revisions  integer     NOT NULL,
    padding    integer     NOT NULL,
    discarded  integer     NOT NULL
);

-- What has arrived and is not sealed yet: hot and small. Event 0 is the key
-- itself, event 1 its revision; the same 16 bytes cannot wait twice.
CREATE TABLE arrival (
    key             bytea       NOT NULL CHECK (octet_length(key) = 16),
    event           smallint    NOT NULL CHECK (event IN (0, 1)),
    start_interval  integer     NOT NULL,
    period          smallint    NOT NULL CHECK (period BETWEEN 1 AND 144),
    risk            smallint    NOT NULL CHECK (risk BETWEEN 0 AND 8),
    report          smallint    NOT NULL CHECK (report BETWEEN 0 AND 5),
    onset           smallint    CHECK (onset BETWEEN -14 AND 14),
    traveler        boolean     NOT NULL,
    regions         text[]      NOT NULL,
    origin          integer     NOT NULL DEFAULT 0,  -- 0: our own apps, else the neighbour
    due_at          timestamptz NOT NULL,            -- end of the embargo, not before the hour of arrival
    PRIMARY KEY (key, event)
);

-- The sealed log. A row is never updated; a partition holds the keys of one
-- UTC day and is dropped whole. Partitions are made by the batcher.
CREATE TABLE exposure (
    start_interval  integer  NOT NULL,
    epoch           integer  NOT NULL,
    ordinal         integer,                          -- in the epoch, by content; NULL: padding, which neighbours never see
    origin          integer  NOT NULL,
    period          smallint NOT NULL,
    risk            smallint NOT NULL,
    report          smallint NOT NULL,
    onset           smallint,
    event           smallint NOT NULL,
    traveler        boolean  NOT NULL,
    padding         boolean  NOT NULL,
    key             bytea    NOT NULL,
    regions         text[]   NOT NULL,
    PRIMARY KEY (key, start_interval, event)
) PARTITION BY RANGE (start_interval);

CREATE INDEX exposure_epoch     ON exposure (epoch, ordinal);
CREATE INDEX exposure_revisions ON exposure (epoch, ordinal) WHERE event = 1;
CREATE INDEX exposure_padding   ON exposure (epoch) WHERE padding AND event = 0;

------------------------------------------------------------------------------
-- Neighbours: whose keys we take, and who takes ours. Kept by `enctl apply`.

-- Everyone from whom keys come. Never deleted, and an origin never used again:
-- it stands with each key, and only who sent a key may revise it.
CREATE TABLE neighbour (
    origin        integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text        NOT NULL CHECK (kind IN ('federation', 'import')),
    name          text        NOT NULL,
    ended_at      timestamptz,                       -- no longer in the configuration

    -- What the last runs came to.
    cursor        bytea,                             -- where to go on, behind a mark of what was asked for
    cursor_at     timestamptz,                       -- when it was saved
    newest_at     timestamptz,                       -- how far that is, by the neighbour's clock
    attempted_at  timestamptz,
    succeeded_at  timestamptz,                       -- when we last had all that there was
    failed_at     timestamptz,
    failure       text        NOT NULL DEFAULT '',   -- of the last run; '': none

    UNIQUE (kind, name)
);

-- How much of what came from whom: 'keys', 'revisions', and by reason what was
-- left out.
CREATE TABLE neighbour_count (
    origin  integer NOT NULL REFERENCES neighbour,
    what    text    NOT NULL,
    n       bigint  NOT NULL,
    PRIMARY KEY (origin, what)
);

-- A neighbour whose server we ask.
CREATE TABLE federation_pull (
    origin                 integer PRIMARY KEY REFERENCES neighbour,
    server                 text    NOT NULL,         -- host:port
    ca                     text    NOT NULL,         -- PEM; '': the system's
    cert_file              text    NOT NULL,         -- our certificate for mutual TLS; '': none
    key_file               text    NOT NULL,
    audience               text    NOT NULL,
    include_regions        text[]  NOT NULL,
    exclude_regions        text[]  NOT NULL,
    only_travelers         boolean NOT NULL,
    only_local_provenance  boolean NOT NULL,
    token_kind             text    NOT NULL CHECK (token_kind IN ('file', 'google', 'client-credentials')),
    token_file             text    NOT NULL,
    token_url              text    NOT NULL,
    client_id              text    NOT NULL,
    client_secret          text    NOT NULL          -- a secret:// reference
);

-- A neighbour that may ask us. One that is pulled under the same name never
-- gets back what it sent.
CREATE TABLE federation_allow (
    name             text   PRIMARY KEY,
    issuer           text   NOT NULL,
    subject          text   NOT NULL,
    audience         text   NOT NULL,
    include_regions  text[] NOT NULL,
    exclude_regions  text[] NOT NULL,
    UNIQUE (issuer, subject, audience)
);

-- A revision that came before its key. It waits for it, and goes when the key
-- could no longer be matched.
CREATE TABLE held_revision (
    key             bytea       NOT NULL CHECK (octet_length(key) = 16),
    origin          integer     NOT NULL REFERENCES neighbour,
    start_interval  integer     NOT NULL,
    period          smallint    NOT NULL,
    risk            smallint    NOT NULL,
    report          smallint    NOT NULL,
    onset           smallint,
    PRIMARY KEY (key, origin)
);

-- A public export of somebody else whose keys we take.
CREATE TABLE public_import (
    origin               integer PRIMARY KEY REFERENCES neighbour,
    index_url            text    NOT NULL,
    root_url             text    NOT NULL,
    region               text    NOT NULL,
    traveler             boolean NOT NULL,
    report_when_missing  smallint NOT NULL,          -- 1 confirmed, 2 likely, 3 a user's own
    onset_when_missing   smallint,                   -- days; NULL: none is told
    keys                 jsonb   NOT NULL            -- that its files are signed with
);

-- Each file of a public export that was seen, once.
CREATE TABLE import_file (
    origin       integer     NOT NULL REFERENCES neighbour,
    file         text        NOT NULL,               -- as the index names it
    number       bigint      GENERATED ALWAYS AS IDENTITY,  -- in the order of the index
    seen_at      timestamptz NOT NULL,
    attempts     integer     NOT NULL DEFAULT 0,     -- counted when they begin
    misses       integer     NOT NULL DEFAULT 0,     -- those of them that found no file, or a wrong one
    retry_at     timestamptz NOT NULL,
    done_at      timestamptz,
    outcome      text        NOT NULL DEFAULT '',    -- of a file that is done: 'imported', 'vanished', 'refused', 'expired'
    failure      text        NOT NULL DEFAULT '',
    PRIMARY KEY (origin, file)
);
CREATE INDEX import_file_waiting ON import_file (origin, number) WHERE done_at IS NULL;

-- A public export of somebody else that we copy. Never deleted: names in a
-- bucket must not be used again.
CREATE TABLE mirror (
    mirror_id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text        NOT NULL UNIQUE,
    index_url     text        NOT NULL,
    root_url      text        NOT NULL,
    bucket        text        NOT NULL,
    root          text        NOT NULL,              -- in the bucket
    rewrite       text        NOT NULL,              -- of the files' names; '': they keep theirs
    keys          jsonb       NOT NULL,              -- that its files are signed with; none: any
    ended_at      timestamptz,
    sequence      bigint      NOT NULL DEFAULT 0,    -- the last number that an index got
    attempted_at  timestamptz,
    succeeded_at  timestamptz,
    failed_at     timestamptz,
    failure       text        NOT NULL DEFAULT '',
    UNIQUE (bucket, root)
);

-- Each file that is or was in a mirror. Its row outlives it, since a name in a
-- bucket never stands for other bytes; only what was never listed is forgotten.
CREATE TABLE mirror_file (
    mirror_id     integer     NOT NULL REFERENCES mirror,
    file          text        NOT NULL,              -- as the index there names it
    number        bigint      NOT NULL,              -- the order of our index
    object        text,                              -- in our bucket; NULL: it has no name there yet
    size          bigint,                            -- of the object, as the next; NULL: it was never listed
    sha256        bytea,
    start_at      timestamptz,                       -- in its header, as the next
    end_at        timestamptz,
    copied_at     timestamptz,                       -- it may be listed
    gone_at       timestamptz,                       -- since when the index there lacks it
    dropped_at    timestamptz,                       -- it must not be listed any more
    delisted_at   timestamptz,                       -- an index without it was written
    deleted_at    timestamptz,                       -- the object is gone
    PRIMARY KEY (mirror_id, file),
    UNIQUE (mirror_id, object)
);

------------------------------------------------------------------------------
-- Uploads: that they were, never by whom.

-- A hash of each accepted upload, so that a retry is known for one. It is
-- sealed with the phone's secret, which is stored nowhere: the database alone
-- ties it to no key. It expires with a whole UTC day.
CREATE TABLE receipt (
    hash        bytea PRIMARY KEY,
    expires_on  date  NOT NULL
);

-- One row an upload, no finer than the hour, added to upload_count at sealing.
CREATE TABLE upload_fact (
    authority_id    integer     NOT NULL,
    hour            timestamptz NOT NULL,
    platform        smallint    NOT NULL,            -- 0 unknown, 1 android, 2 ios
    keys            smallint    NOT NULL,
    revision        boolean     NOT NULL,
    key_ages        smallint[]  NOT NULL,            -- whole days, one a key
    onset_age       smallint,                        -- whole days; NULL: not told
    attestation     smallint    NOT NULL             -- of the device: 0 none, 1 genuine, 2 doubtful
);

-- Sums of facts: how many of what on a day.
CREATE TABLE upload_count (
    authority_id    integer  NOT NULL,
    day             date     NOT NULL,
    measure         text     NOT NULL
                    CHECK (measure IN ('platform', 'keys', 'revision', 'no-onset', 'key-age', 'onset-age', 'attestation')),
    bin             smallint NOT NULL,               -- platform, days, or platform × 10 + attestation
    n               bigint   NOT NULL,
    PRIMARY KEY (authority_id, day, measure, bin)
);

------------------------------------------------------------------------------
-- Publication.

-- A batch is a stretch of epochs of one export, frozen when it is cut.
CREATE TABLE export_batch (
    batch_id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    export_id        integer     NOT NULL REFERENCES export,
    first_epoch      integer     NOT NULL,
    last_epoch       integer     NOT NULL,
    start_at         timestamptz NOT NULL,
    end_at           timestamptz NOT NULL,
    region           text        NOT NULL,
    input_regions    text[]      NOT NULL,
    exclude_regions  text[]      NOT NULL,
    travelers        text        NOT NULL,
    provenance       text        NOT NULL,
    first_day        integer     NOT NULL,           -- the key days that it reads, as days since 1970
    last_day         integer     NOT NULL,
    parts            jsonb       NOT NULL,           -- the first (start, key) of each file
    signing_keys     jsonb       NOT NULL,           -- the leading one first, as they stood
    cut_at           timestamptz NOT NULL,
    fence            bigint      NOT NULL DEFAULT 0, -- grows with each lease: an old holder cannot finish
    lease_until      timestamptz NOT NULL DEFAULT '-infinity',
    done_at          timestamptz,
    UNIQUE (export_id, first_epoch),
    CHECK (first_epoch <= last_epoch AND start_at < end_at)
);
CREATE INDEX export_batch_open ON export_batch (end_at, batch_id) WHERE done_at IS NULL;

CREATE TABLE export_file (
    file_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    export_id    integer     NOT NULL REFERENCES export,
    batch_id     bigint      NOT NULL REFERENCES export_batch,
    number       integer     NOT NULL,
    object       text        NOT NULL,               -- the name in the bucket, root included
    size         bigint      NOT NULL,
    sha256       bytea       NOT NULL,               -- of the object
    keys         integer     NOT NULL,
    revised_keys integer     NOT NULL,
    made_at      timestamptz NOT NULL,
    delisted_sequence bigint,                        -- the index that no longer lists it
    delisted_at  timestamptz,                        -- when that index was written
    UNIQUE (batch_id, number),
    UNIQUE (export_id, object)
);

------------------------------------------------------------------------------
-- One at a time, and on the record.

CREATE TABLE lease (
    name        text        PRIMARY KEY,
    fence       bigint      NOT NULL,
    held_until  timestamptz NOT NULL
);

CREATE TABLE job_progress (
    name          text        PRIMARY KEY,
    succeeded_at  timestamptz NOT NULL
);
