DROP TABLE federation_pull, federation_allow, held_revision, public_import, import_file, mirror_file, mirror,
    neighbour_count, neighbour, job_progress, lease, export_file, export_batch, upload_count, upload_fact, receipt,
    exposure, arrival, epoch,
    log_head, audit_log, revision_key, export_signing_key, export, signing_key, authorized_app_authority, authorized_app,
    health_authority_key, health_authority;
