-- The schema as PostgreSQL sees it after all migrations, written by
-- make generate. The reasons stand in migrations/.

CREATE TABLE arrival (
    key bytea NOT NULL,
    event smallint NOT NULL,
    start_interval integer NOT NULL,
    period smallint NOT NULL,
    risk smallint NOT NULL,
    report smallint NOT NULL,
    onset smallint,
    traveler boolean NOT NULL,
    regions text[] NOT NULL,
    origin integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone NOT NULL,
    CONSTRAINT arrival_event_check CHECK ((event = ANY (ARRAY[0, 1]))),
    CONSTRAINT arrival_key_check CHECK ((octet_length(key) = 16)),
    CONSTRAINT arrival_onset_check CHECK (((onset >= '-14'::integer) AND (onset <= 14))),
    CONSTRAINT arrival_period_check CHECK (((period >= 1) AND (period <= 144))),
    CONSTRAINT arrival_report_check CHECK (((report >= 0) AND (report <= 5))),
    CONSTRAINT arrival_risk_check CHECK (((risk >= 0) AND (risk <= 8)))
);

CREATE TABLE audit_log (
    audit_id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    who text NOT NULL,
    action text NOT NULL,
    detail text NOT NULL
);

ALTER TABLE audit_log ALTER COLUMN audit_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit_log_audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE authorized_app (
    app_id text NOT NULL,
    regions text[] NOT NULL,
    skip_certificate boolean DEFAULT false NOT NULL,
    skip_revision_token boolean DEFAULT false NOT NULL,
    attestation jsonb,
    CONSTRAINT authorized_app_app_id_check CHECK ((app_id = lower(app_id)))
);

CREATE TABLE authorized_app_authority (
    app_id text NOT NULL,
    authority_id integer NOT NULL
);

CREATE TABLE epoch (
    epoch integer NOT NULL,
    sealed_at timestamp with time zone NOT NULL,
    keys integer NOT NULL,
    revisions integer NOT NULL,
    padding integer NOT NULL,
    discarded integer NOT NULL
);

CREATE TABLE export (
    export_id integer NOT NULL,
    name text NOT NULL,
    bucket text NOT NULL,
    root text NOT NULL,
    region text NOT NULL,
    input_regions text[] NOT NULL,
    exclude_regions text[] DEFAULT '{}'::text[] NOT NULL,
    travelers text DEFAULT 'own-region'::text NOT NULL,
    provenance text DEFAULT 'any'::text NOT NULL,
    period interval NOT NULL,
    valid_from timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    valid_thru timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL,
    backfill boolean DEFAULT false NOT NULL,
    max_records integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    last_epoch integer,
    last_end timestamp with time zone,
    cut_at timestamp with time zone,
    index_sequence bigint DEFAULT 0 NOT NULL,
    written_sequence bigint DEFAULT 0 NOT NULL,
    CONSTRAINT export_period_check CHECK ((period > '00:00:00'::interval)),
    CONSTRAINT export_provenance_check CHECK ((provenance = ANY (ARRAY['any'::text, 'local'::text]))),
    CONSTRAINT export_travelers_check CHECK ((travelers = ANY (ARRAY['include'::text, 'own-region'::text, 'exclude'::text])))
);

CREATE TABLE export_batch (
    batch_id bigint NOT NULL,
    export_id integer NOT NULL,
    first_epoch integer NOT NULL,
    last_epoch integer NOT NULL,
    start_at timestamp with time zone NOT NULL,
    end_at timestamp with time zone NOT NULL,
    region text NOT NULL,
    input_regions text[] NOT NULL,
    exclude_regions text[] NOT NULL,
    travelers text NOT NULL,
    provenance text NOT NULL,
    first_day integer NOT NULL,
    last_day integer NOT NULL,
    parts jsonb NOT NULL,
    signing_keys jsonb NOT NULL,
    cut_at timestamp with time zone NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    lease_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    done_at timestamp with time zone,
    CONSTRAINT export_batch_check CHECK (((first_epoch <= last_epoch) AND (start_at < end_at)))
);

ALTER TABLE export_batch ALTER COLUMN batch_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME export_batch_batch_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE export ALTER COLUMN export_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME export_export_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE export_file (
    file_id bigint NOT NULL,
    export_id integer NOT NULL,
    batch_id bigint NOT NULL,
    number integer NOT NULL,
    object text NOT NULL,
    size bigint NOT NULL,
    sha256 bytea NOT NULL,
    keys integer NOT NULL,
    revised_keys integer NOT NULL,
    made_at timestamp with time zone NOT NULL,
    delisted_sequence bigint,
    delisted_at timestamp with time zone
);

ALTER TABLE export_file ALTER COLUMN file_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME export_file_file_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE export_signing_key (
    export_id integer NOT NULL,
    name text NOT NULL
);

CREATE TABLE exposure (
    start_interval integer NOT NULL,
    epoch integer NOT NULL,
    ordinal integer,
    origin integer NOT NULL,
    period smallint NOT NULL,
    risk smallint NOT NULL,
    report smallint NOT NULL,
    onset smallint,
    event smallint NOT NULL,
    traveler boolean NOT NULL,
    padding boolean NOT NULL,
    key bytea NOT NULL,
    regions text[] NOT NULL
)
PARTITION BY RANGE (start_interval);

CREATE TABLE federation_allow (
    name text NOT NULL,
    issuer text NOT NULL,
    subject text NOT NULL,
    audience text NOT NULL,
    include_regions text[] NOT NULL,
    exclude_regions text[] NOT NULL
);

CREATE TABLE federation_pull (
    origin integer NOT NULL,
    server text NOT NULL,
    ca text NOT NULL,
    cert_file text NOT NULL,
    key_file text NOT NULL,
    audience text NOT NULL,
    include_regions text[] NOT NULL,
    exclude_regions text[] NOT NULL,
    only_travelers boolean NOT NULL,
    only_local_provenance boolean NOT NULL,
    token_kind text NOT NULL,
    token_file text NOT NULL,
    token_url text NOT NULL,
    client_id text NOT NULL,
    client_secret text NOT NULL,
    CONSTRAINT federation_pull_token_kind_check CHECK ((token_kind = ANY (ARRAY['file'::text, 'google'::text, 'client-credentials'::text])))
);

CREATE TABLE health_authority (
    authority_id integer NOT NULL,
    issuer text NOT NULL,
    audience text NOT NULL,
    name text NOT NULL,
    jwks_uri text DEFAULT ''::text NOT NULL,
    stats_api boolean DEFAULT false NOT NULL,
    jwks_read_at timestamp with time zone,
    jwks_failed_at timestamp with time zone,
    jwks_failure text DEFAULT ''::text NOT NULL
);

ALTER TABLE health_authority ALTER COLUMN authority_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME health_authority_authority_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE health_authority_key (
    authority_id integer NOT NULL,
    version text NOT NULL,
    public_key text NOT NULL,
    valid_from timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    valid_thru timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL,
    source text DEFAULT ''::text NOT NULL
);

CREATE TABLE held_revision (
    key bytea NOT NULL,
    origin integer NOT NULL,
    start_interval integer NOT NULL,
    period smallint NOT NULL,
    risk smallint NOT NULL,
    report smallint NOT NULL,
    onset smallint,
    CONSTRAINT held_revision_key_check CHECK ((octet_length(key) = 16))
);

CREATE TABLE import_file (
    origin integer NOT NULL,
    file text NOT NULL,
    number bigint NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    misses integer DEFAULT 0 NOT NULL,
    retry_at timestamp with time zone NOT NULL,
    done_at timestamp with time zone,
    outcome text DEFAULT ''::text NOT NULL,
    failure text DEFAULT ''::text NOT NULL
);

ALTER TABLE import_file ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME import_file_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE job_progress (
    name text NOT NULL,
    succeeded_at timestamp with time zone NOT NULL
);

CREATE TABLE lease (
    name text NOT NULL,
    fence bigint NOT NULL,
    held_until timestamp with time zone NOT NULL
);

CREATE TABLE log_head (
    singleton boolean DEFAULT true NOT NULL,
    identity uuid DEFAULT gen_random_uuid() NOT NULL,
    last_epoch integer DEFAULT 0 NOT NULL,
    sealed_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT log_head_singleton_check CHECK (singleton)
);

CREATE TABLE mirror (
    mirror_id integer NOT NULL,
    name text NOT NULL,
    index_url text NOT NULL,
    root_url text NOT NULL,
    bucket text NOT NULL,
    root text NOT NULL,
    rewrite text NOT NULL,
    keys jsonb NOT NULL,
    ended_at timestamp with time zone,
    sequence bigint DEFAULT 0 NOT NULL,
    attempted_at timestamp with time zone,
    succeeded_at timestamp with time zone,
    failed_at timestamp with time zone,
    failure text DEFAULT ''::text NOT NULL
);

CREATE TABLE mirror_file (
    mirror_id integer NOT NULL,
    file text NOT NULL,
    number bigint NOT NULL,
    object text,
    size bigint,
    sha256 bytea,
    start_at timestamp with time zone,
    end_at timestamp with time zone,
    copied_at timestamp with time zone,
    gone_at timestamp with time zone,
    dropped_at timestamp with time zone,
    delisted_at timestamp with time zone,
    deleted_at timestamp with time zone
);

ALTER TABLE mirror ALTER COLUMN mirror_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME mirror_mirror_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE neighbour (
    origin integer NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    ended_at timestamp with time zone,
    cursor bytea,
    cursor_at timestamp with time zone,
    newest_at timestamp with time zone,
    attempted_at timestamp with time zone,
    succeeded_at timestamp with time zone,
    failed_at timestamp with time zone,
    failure text DEFAULT ''::text NOT NULL,
    CONSTRAINT neighbour_kind_check CHECK ((kind = ANY (ARRAY['federation'::text, 'import'::text])))
);

CREATE TABLE neighbour_count (
    origin integer NOT NULL,
    what text NOT NULL,
    n bigint NOT NULL
);

ALTER TABLE neighbour ALTER COLUMN origin ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME neighbour_origin_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public_import (
    origin integer NOT NULL,
    index_url text NOT NULL,
    root_url text NOT NULL,
    region text NOT NULL,
    traveler boolean NOT NULL,
    report_when_missing smallint NOT NULL,
    onset_when_missing smallint,
    keys jsonb NOT NULL
);

CREATE TABLE receipt (
    hash bytea NOT NULL,
    expires_on date NOT NULL
);

CREATE TABLE revision_key (
    revision_key_id integer NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    kept_at timestamp with time zone
);

ALTER TABLE revision_key ALTER COLUMN revision_key_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME revision_key_revision_key_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE signing_key (
    name text NOT NULL,
    key_url text NOT NULL,
    key_id text NOT NULL,
    key_version text NOT NULL,
    valid_from timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    leads_from timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    valid_thru timestamp with time zone DEFAULT 'infinity'::timestamp with time zone NOT NULL
);

CREATE TABLE upload_count (
    authority_id integer NOT NULL,
    day date NOT NULL,
    measure text NOT NULL,
    bin smallint NOT NULL,
    n bigint NOT NULL,
    CONSTRAINT upload_count_measure_check CHECK ((measure = ANY (ARRAY['platform'::text, 'keys'::text, 'revision'::text, 'no-onset'::text, 'key-age'::text, 'onset-age'::text, 'attestation'::text])))
);

CREATE TABLE upload_fact (
    authority_id integer NOT NULL,
    hour timestamp with time zone NOT NULL,
    platform smallint NOT NULL,
    keys smallint NOT NULL,
    revision boolean NOT NULL,
    key_ages smallint[] NOT NULL,
    onset_age smallint,
    attestation smallint NOT NULL
);

ALTER TABLE ONLY arrival
    ADD CONSTRAINT arrival_pkey PRIMARY KEY (key, event);

ALTER TABLE ONLY audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (audit_id);

ALTER TABLE ONLY authorized_app_authority
    ADD CONSTRAINT authorized_app_authority_pkey PRIMARY KEY (app_id, authority_id);

ALTER TABLE ONLY authorized_app
    ADD CONSTRAINT authorized_app_pkey PRIMARY KEY (app_id);

ALTER TABLE ONLY epoch
    ADD CONSTRAINT epoch_pkey PRIMARY KEY (epoch);

ALTER TABLE ONLY export_batch
    ADD CONSTRAINT export_batch_export_id_first_epoch_key UNIQUE (export_id, first_epoch);

ALTER TABLE ONLY export_batch
    ADD CONSTRAINT export_batch_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY export
    ADD CONSTRAINT export_bucket_root_key UNIQUE (bucket, root);

ALTER TABLE ONLY export_file
    ADD CONSTRAINT export_file_batch_id_number_key UNIQUE (batch_id, number);

ALTER TABLE ONLY export_file
    ADD CONSTRAINT export_file_export_id_object_key UNIQUE (export_id, object);

ALTER TABLE ONLY export_file
    ADD CONSTRAINT export_file_pkey PRIMARY KEY (file_id);

ALTER TABLE ONLY export
    ADD CONSTRAINT export_name_key UNIQUE (name);

ALTER TABLE ONLY export
    ADD CONSTRAINT export_pkey PRIMARY KEY (export_id);

ALTER TABLE ONLY export_signing_key
    ADD CONSTRAINT export_signing_key_pkey PRIMARY KEY (export_id, name);

ALTER TABLE ONLY exposure
    ADD CONSTRAINT exposure_pkey PRIMARY KEY (key, start_interval, event);

ALTER TABLE ONLY federation_allow
    ADD CONSTRAINT federation_allow_issuer_subject_audience_key UNIQUE (issuer, subject, audience);

ALTER TABLE ONLY federation_allow
    ADD CONSTRAINT federation_allow_pkey PRIMARY KEY (name);

ALTER TABLE ONLY federation_pull
    ADD CONSTRAINT federation_pull_pkey PRIMARY KEY (origin);

ALTER TABLE ONLY health_authority
    ADD CONSTRAINT health_authority_issuer_key UNIQUE (issuer);

ALTER TABLE ONLY health_authority_key
    ADD CONSTRAINT health_authority_key_pkey PRIMARY KEY (authority_id, version, source);

ALTER TABLE ONLY health_authority
    ADD CONSTRAINT health_authority_pkey PRIMARY KEY (authority_id);

ALTER TABLE ONLY held_revision
    ADD CONSTRAINT held_revision_pkey PRIMARY KEY (key, origin);

ALTER TABLE ONLY import_file
    ADD CONSTRAINT import_file_pkey PRIMARY KEY (origin, file);

ALTER TABLE ONLY job_progress
    ADD CONSTRAINT job_progress_pkey PRIMARY KEY (name);

ALTER TABLE ONLY lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (name);

ALTER TABLE ONLY log_head
    ADD CONSTRAINT log_head_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY mirror
    ADD CONSTRAINT mirror_bucket_root_key UNIQUE (bucket, root);

ALTER TABLE ONLY mirror_file
    ADD CONSTRAINT mirror_file_mirror_id_object_key UNIQUE (mirror_id, object);

ALTER TABLE ONLY mirror_file
    ADD CONSTRAINT mirror_file_pkey PRIMARY KEY (mirror_id, file);

ALTER TABLE ONLY mirror
    ADD CONSTRAINT mirror_name_key UNIQUE (name);

ALTER TABLE ONLY mirror
    ADD CONSTRAINT mirror_pkey PRIMARY KEY (mirror_id);

ALTER TABLE ONLY neighbour_count
    ADD CONSTRAINT neighbour_count_pkey PRIMARY KEY (origin, what);

ALTER TABLE ONLY neighbour
    ADD CONSTRAINT neighbour_kind_name_key UNIQUE (kind, name);

ALTER TABLE ONLY neighbour
    ADD CONSTRAINT neighbour_pkey PRIMARY KEY (origin);

ALTER TABLE ONLY public_import
    ADD CONSTRAINT public_import_pkey PRIMARY KEY (origin);

ALTER TABLE ONLY receipt
    ADD CONSTRAINT receipt_pkey PRIMARY KEY (hash);

ALTER TABLE ONLY revision_key
    ADD CONSTRAINT revision_key_pkey PRIMARY KEY (revision_key_id);

ALTER TABLE ONLY signing_key
    ADD CONSTRAINT signing_key_pkey PRIMARY KEY (name);

ALTER TABLE ONLY upload_count
    ADD CONSTRAINT upload_count_pkey PRIMARY KEY (authority_id, day, measure, bin);

CREATE INDEX export_batch_open ON export_batch USING btree (end_at, batch_id) WHERE (done_at IS NULL);

CREATE INDEX exposure_epoch ON ONLY exposure USING btree (epoch, ordinal);

CREATE INDEX exposure_padding ON ONLY exposure USING btree (epoch) WHERE (padding AND (event = 0));

CREATE INDEX exposure_revisions ON ONLY exposure USING btree (epoch, ordinal) WHERE (event = 1);

CREATE INDEX import_file_waiting ON import_file USING btree (origin, number) WHERE (done_at IS NULL);

ALTER TABLE ONLY authorized_app_authority
    ADD CONSTRAINT authorized_app_authority_app_id_fkey FOREIGN KEY (app_id) REFERENCES authorized_app(app_id) ON DELETE CASCADE;

ALTER TABLE ONLY authorized_app_authority
    ADD CONSTRAINT authorized_app_authority_authority_id_fkey FOREIGN KEY (authority_id) REFERENCES health_authority(authority_id) ON DELETE CASCADE;

ALTER TABLE ONLY export_batch
    ADD CONSTRAINT export_batch_export_id_fkey FOREIGN KEY (export_id) REFERENCES export(export_id);

ALTER TABLE ONLY export_file
    ADD CONSTRAINT export_file_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES export_batch(batch_id);

ALTER TABLE ONLY export_file
    ADD CONSTRAINT export_file_export_id_fkey FOREIGN KEY (export_id) REFERENCES export(export_id);

ALTER TABLE ONLY export_signing_key
    ADD CONSTRAINT export_signing_key_export_id_fkey FOREIGN KEY (export_id) REFERENCES export(export_id) ON DELETE CASCADE;

ALTER TABLE ONLY export_signing_key
    ADD CONSTRAINT export_signing_key_name_fkey FOREIGN KEY (name) REFERENCES signing_key(name) ON DELETE CASCADE;

ALTER TABLE ONLY federation_pull
    ADD CONSTRAINT federation_pull_origin_fkey FOREIGN KEY (origin) REFERENCES neighbour(origin);

ALTER TABLE ONLY health_authority_key
    ADD CONSTRAINT health_authority_key_authority_id_fkey FOREIGN KEY (authority_id) REFERENCES health_authority(authority_id) ON DELETE CASCADE;

ALTER TABLE ONLY held_revision
    ADD CONSTRAINT held_revision_origin_fkey FOREIGN KEY (origin) REFERENCES neighbour(origin);

ALTER TABLE ONLY import_file
    ADD CONSTRAINT import_file_origin_fkey FOREIGN KEY (origin) REFERENCES neighbour(origin);

ALTER TABLE ONLY mirror_file
    ADD CONSTRAINT mirror_file_mirror_id_fkey FOREIGN KEY (mirror_id) REFERENCES mirror(mirror_id);

ALTER TABLE ONLY neighbour_count
    ADD CONSTRAINT neighbour_count_origin_fkey FOREIGN KEY (origin) REFERENCES neighbour(origin);

ALTER TABLE ONLY public_import
    ADD CONSTRAINT public_import_origin_fkey FOREIGN KEY (origin) REFERENCES neighbour(origin);
