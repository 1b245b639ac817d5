DROP TABLE job_progress, lease, export_file, export_batch, upload_count, upload_fact, receipt, exposure, arrival, epoch,
    log_head, audit_log, revision_key, export_signing_key, export, signing_key, authorized_app_authority, authorized_app,
    health_authority_key, health_authority;
