;; Prints the outputs, without grafts, of all that a manifest has: what
;; `guix weather --manifest` of Guix 1.5.0 looks up.
(use-modules (guix gexp) (guix store) (guix derivations) (guix packages) (guix profiles)
             ((guix ui) #:select (load* make-user-module with-error-handling))
             (ice-9 match) (srfi srfi-1))

(define (outputs store object system)
  (match (derivation->output-paths
          (run-with-store store (lower-object object system) #:system system))
    (((names . paths) ...) paths)))

(match (command-line)
  ((_ file)
   (with-error-handling
     (parameterize ((%graft? #f))
       (let* ((manifest (load* file (make-user-module '((guix profiles) (gnu)))))
              (system   (%current-system))
              (objects  (delete-duplicates
                         (map manifest-entry-item (manifest-transitive-entries manifest))
                         eq?)))
         (with-store store
           (for-each (lambda (object)
                       (unless (and (package? object) (not (supported-package? object system)))
                         (for-each (lambda (path) (display path) (newline))
                                   (if (string? object) ;a store item itself
                                       (list object)
                                       (outputs store object system)))))
                     objects)))))))
